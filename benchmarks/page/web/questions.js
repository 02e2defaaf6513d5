// A job's questions with their pictures: numbers in, {text, image, picture: Blob} out. Pictures are fetched ahead, so
// that nothing comes over the network while the clock runs, and kept as far as PICTURES_BYTES go.

import * as calls from "./calls.js";

const PICTURES_BYTES = 64e6;
const QUESTIONS_AT_ONCE = 500;
const AT_ONCE = 6; // as many as browsers open connections to one host

export class Questions {
  constructor(job, signal) {
    Object.assign(this, { job, signal });
    this.rows = new Map(); // number -> {text, image}
    this.pictures = new Map(); // url -> Blob; several questions may share one
    this.bytes = 0;
  }

  async get(number) {
    const row = await this.row(number);
    return { ...row, picture: await this.picture(row.image) };
  }

  // Have the pictures of `count` questions from `from` on, or of as many as there is room for.
  async ahead(from, count) {
    const end = Math.min(from + count, this.job.questions);
    for (let k = from; k < end && this.bytes < PICTURES_BYTES; k += AT_ONCE) {
      const images = new Set();
      for (let n = k; n < Math.min(k + AT_ONCE, end); n += 1) images.add((await this.row(n)).image);
      await Promise.all([...images].map((image) => this.picture(image)));
    }
  }

  async row(number) {
    if (!this.rows.has(number)) {
      const { job, signal } = this;
      const found = await calls.questions(job.id, number, QUESTIONS_AT_ONCE, { signal });
      if (!found.length) throw new Error(`The server has no question ${number + 1} of ${job.questions}.`);
      found.forEach((row, k) => this.rows.set(number + k, row));
    }
    return this.rows.get(number);
  }

  async picture(image) {
    const known = this.pictures.get(image);
    if (known) return known;
    const blob = await calls.picture(image, { signal: this.signal });
    if (this.bytes + blob.size > PICTURES_BYTES) {
      this.pictures.clear();
      this.bytes = 0;
    }
    this.pictures.set(image, blob);
    this.bytes += blob.size;
    return blob;
  }
}
