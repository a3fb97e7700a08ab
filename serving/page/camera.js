// A photo from the camera, taken in a dialog.

import { Trouble } from "./api.js";

const REASONS = {
  NotAllowedError: ["The camera is not allowed.", "Allow it for this page in the browser's address bar, then try again."],
  NotFoundError: ["There is no camera.", "Connect one, or choose a photo."],
  NotReadableError: ["Another program uses the camera.", "Close that program, then try again."],
};

/** Show the camera in `dialog` and resolve to the photo taken (a Blob), or to null if cancelled. Throws Trouble. */
export async function takePhoto(dialog) {
  const stream = await open();
  const video = dialog.querySelector("video");
  const [shoot, cancel] = dialog.querySelectorAll("button");
  video.srcObject = stream;
  // Until the camera shows a picture, the dialog can only be cancelled.
  shoot.disabled = true;
  dialog.showModal();
  try {
    const taken = await new Promise((resolve, reject) => {
      shoot.onclick = () => resolve(true);
      cancel.onclick = dialog.onclose = () => resolve(false);
      video.play().then(() => (shoot.disabled = false), reject);
    });
    return taken ? await still(video) : null;
  } finally {
    for (const track of stream.getTracks()) track.stop();
    dialog.close();
  }
}

async function open() {
  if (!navigator.mediaDevices) {
    throw new Trouble(
      "This page may not use the camera.",
      "Browsers allow it over https, or for a server on this machine (localhost).",
    );
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 }, facingMode: "environment" } });
  } catch (error) {
    const [message, hint] = REASONS[error.name] ?? ["The camera did not start.", error.message];
    throw new Trouble(message, hint);
  }
}

function still(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
}
