// Does to raw pixels what the page does before a student's graphs run; in Node, for tests.
//
//   node preprocess.mjs WEB < requests.jsonl > answers.jsonl      WEB: the page's folder of modules
//
// A request has {width, height, pixels: base64 of RGB} and either {resize: [width, height, filter]} or {settings}, the
// bundle's. The answer is {dims: {name: [..]}, data: {name: base64}, text} or {error}.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const web = pathToFileURL(path.resolve(process.argv[2]) + path.sep);
const { resize } = await import(new URL('resize.js', web));
const { openFamily } = await import(new URL('families/index.js', web));
const { crc32 } = await import(new URL('crc32.js', web));
const { onWhite } = await import(new URL('decode.js', web));

const base64 = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength).toString('base64');

function answer({ width, height, pixels, resize: to, settings, rgba }) {
    const data = new Uint8Array(Buffer.from(pixels, 'base64'));
    if (rgba) return { dims: {}, data: { rgb: base64(onWhite(data)) } };
    const picture = { width, height, data };
    if (to) {
        const resized = resize(picture, ...to);
        return { dims: { rgb: [resized.height, resized.width, 3] }, data: { rgb: base64(resized.data) } };
    }
    const family = openFamily(settings);
    const seen = family.look(picture);
    const [dims, bytes] = [{}, {}];
    for (const [name, tensor] of Object.entries(seen.inputs)) {
        dims[name] = tensor.dims;
        bytes[name] = base64(tensor.data);
    }
    const hash = crc32(seen.inputs.pixel_values.data);
    return { dims, data: bytes, text: family.imageText(seen), placeholder: family.placeholder, hash };
}

for (const line of fs.readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
    let result;
    try {
        result = answer(JSON.parse(line));
    } catch (error) {
        result = { error: error.message };
    }
    process.stdout.write(JSON.stringify(result) + '\n');
}
