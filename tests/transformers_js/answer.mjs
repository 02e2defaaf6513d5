// Answers questions about pictures from an unmodified bundle, greedily, in transformers.js.
//
//   node answer.mjs BUNDLE < requests.jsonl > answers.jsonl
//
// A request is {"image": path, "question": text, "max_new_tokens": n}, and may have "pixels": path, raw float32 to be
// used in place of the library's own pixel values (its resize isn't antialiased; an application would resize itself).
// An answer is {"input_ids", "token_ids", "text", "dims", "pixels"}; "pixels" are the library's own values in base64.
// The precision comes from the bundle's config.json.
import fs from 'node:fs';
import path from 'node:path';
import { AutoModelForImageTextToText, AutoProcessor, RawImage, env } from '@huggingface/transformers';

const bundle = path.resolve(process.argv[2]);
env.localModelPath = path.dirname(bundle) + path.sep;
env.allowRemoteModels = false;
const name = path.basename(bundle);
const processor = await AutoProcessor.from_pretrained(name);
const model = await AutoModelForImageTextToText.from_pretrained(name, { device: 'cpu' });
const pictureFirst = processor.constructor.name === 'LlavaProcessor'; // the one whose arguments stand the other way

for (const line of fs.readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
    const request = JSON.parse(line);
    const image = await RawImage.read(request.image);
    const content = [{ type: 'image' }, { type: 'text', text: request.question }];
    const text = processor.apply_chat_template([{ role: 'user', content }], { add_generation_prompt: true });
    const inputs = pictureFirst ? await processor(image, text) : await processor(text, [image]);
    const own = inputs.pixel_values.data.slice();
    if (request.pixels) {
        const bytes = fs.readFileSync(request.pixels);
        inputs.pixel_values.data.set(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4));
    }
    const ids = await model.generate({ ...inputs, max_new_tokens: request.max_new_tokens, do_sample: false });
    const answer = ids.slice(null, [inputs.input_ids.dims.at(-1), null]);
    const answered = {
        input_ids: Array.from(inputs.input_ids.data, Number),
        token_ids: Array.from(answer.data, Number),
        text: processor.batch_decode(answer, { skip_special_tokens: true })[0],
        dims: inputs.pixel_values.dims,
        pixels: Buffer.from(own.buffer).toString('base64'),
    };
    process.stdout.write(JSON.stringify(answered) + '\n');
}
