// The ways to add a photo: choose a file, drop it, paste it, pick a sample, or use the camera.

import { Trouble } from "./api.js";
import { takePhoto } from "./camera.js";
import { byId } from "./dom.js";

/** Call `take(blob, name, sample)` with each photo that is added, and `complain(trouble)` if one cannot be. */
export function listen(take, complain) {
  byId("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    if (file) take(file, file.name);
    // Otherwise choosing the same file again would not fire a change event.
    target.value = "";
  });

  addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("stage").classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("stage").classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    byId("stage").classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file, file.name);
    else complain(new Trouble("That was not a file.", "Drop the file of a photo, or save the picture first."));
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) take(file, file.name || "photo.png");
  });

  byId("samples").addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const source = button.querySelector("img").src;
    try {
      const response = await fetch(source);
      if (!response.ok) throw new Error(response.statusText);
      await take(await response.blob(), button.dataset.sample, source);
    } catch {
      complain(new Trouble("The sample could not be loaded.", "Check that the server runs."));
    }
  });

  byId("camera").addEventListener("click", async ({ currentTarget: button }) => {
    // The browser may take a while to ask for permission: a second click must not open a second camera.
    if (button.ariaBusy === "true") return;
    button.ariaBusy = "true";
    try {
      const photo = await takePhoto(byId("camera-dialog"));
      if (photo) await take(photo, "photo.jpg");
    } catch (error) {
      complain(error instanceof Trouble ? error : new Trouble("The camera took no photo.", String(error.message)));
    } finally {
      button.ariaBusy = "false";
    }
  });
}
