// The picture that a student is asked about: from a file, dropped, pasted, or taken with the camera. Shared by this page
// and by the one of `bench --device browser`; both have the same elements: #preview, #video, #empty, #picture-facts,
// #file, #shot, #choose, #camera, #take, #close-camera, #question.
export class Picture {
  #url = "";
  #stream = null;

  // `problem(text)` shows a sentence, or none for ""; `refuse(blob, name)` says why a picture can't be used, if it can't;
  // `meanwhile`: ids of what is hidden while the camera runs; `onShow` hears that another picture stands there.
  constructor({ problem, refuse = () => "", meanwhile = ["camera"], onShow = () => {} }) {
    Object.assign(this, { problem, refuse, meanwhile, onShow });
    this.blob = null;
    at("choose").addEventListener("click", () => at("file").click());
    at("camera").addEventListener("click", () => this.film());
    at("take").addEventListener("click", () => this.photograph());
    at("close-camera").addEventListener("click", () => { this.close(); at("camera").focus(); });
    for (const id of ["file", "shot"]) {
      at(id).addEventListener("change", () => { this.take(at(id).files); at(id).value = ""; });
    }
  }

  show(blob, name) {
    const refusal = this.refuse(blob, name);
    this.problem(refusal);
    if (refusal) return;
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.blob = blob;
    this.#url = URL.createObjectURL(blob);
    const preview = at("preview");
    preview.onload = () => {
      at("picture-facts").textContent = `${name}, ${preview.naturalWidth} × ${preview.naturalHeight}`;
    };
    preview.onerror = () => {
      this.blob = null;
      preview.hidden = true;
      at("empty").hidden = false;
      at("picture-facts").textContent = "";
      this.problem(`${name} is no picture that can be read here; choose a PNG, JPEG or WebP.`);
    };
    preview.alt = `The picture to ask about: ${name}`;
    preview.src = this.#url;
    preview.hidden = false;
    at("empty").hidden = true;
    this.onShow();
  }

  // The first picture of some files.
  take(files) {
    const file = [...(files || [])].find((one) => one.type.startsWith("image/"));
    if (file) {
      this.close();
      this.show(file, file.name || "picture");
      at("question").focus({ preventScroll: true });
    } else if (files && files.length) {
      this.problem("That is no picture; choose a PNG, JPEG or WebP.");
    }
  }

  // Browsers give the camera's stream to pages over HTTPS or on this machine alone; elsewhere a phone's camera app helps.
  async film() {
    this.problem("");
    if (!window.isSecureContext || !navigator.mediaDevices) {
      at("shot").click();
      return;
    }
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      this.problem(`The camera can't be used (${error.message || error.name}); choose a picture instead.`);
      return;
    }
    at("video").srcObject = this.#stream;
    for (const id of ["video", "take", "close-camera"]) at(id).hidden = false;
    for (const id of ["preview", "empty", ...this.meanwhile]) at(id).hidden = true;
    await at("video").play();
    at("take").focus();
  }

  // End the camera.
  close() {
    if (!this.#stream) return;
    for (const track of this.#stream.getTracks()) track.stop();
    this.#stream = null;
    at("video").srcObject = null;
    for (const id of ["video", "take", "close-camera"]) at(id).hidden = true;
    for (const id of this.meanwhile) at(id).hidden = false;
    at("preview").hidden = !this.blob;
    at("empty").hidden = Boolean(this.blob);
  }

  photograph() {
    const video = at("video"), canvas = document.createElement("canvas");
    if (!video.videoWidth) return;
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      this.close();
      this.show(blob, "photo");
      at("question").focus();
    }, "image/png");
  }
}

function at(id) {
  return document.getElementById(id);
}
