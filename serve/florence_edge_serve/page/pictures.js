/** Pictures that a person drops, pastes or chooses. */

/**
 * Hand on the picture files that are dropped on the page, pasted into it or chosen.
 *
 * @param parts {stage, file, choose}: the elements
 * @param onFile called with a File
 * @param onNothing called with a sentence where what came is not a picture
 */
export function listenForPictures({ stage, file, choose }, onFile, onNothing) {
  choose.addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length > 0) onFile(file.files[0]);
    file.value = ""; // the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    const picture = pictureIn(event.clipboardData);
    if (picture === null) return; // a text goes where the cursor is
    event.preventDefault();
    onFile(picture);
  });
  listenForDrops(stage, onFile, onNothing);
}

function listenForDrops(stage, onFile, onNothing) {
  let depth = 0; // enter and leave come for each element on the way
  const show = (shown) => stage.classList.toggle("dropping", shown);
  document.addEventListener("dragenter", () => {
    depth += 1;
    show(true);
  });
  document.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    show(depth > 0);
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    show(false);
    const picture = pictureIn(event.dataTransfer);
    if (picture !== null) onFile(picture);
    else onNothing("What was dropped is not a picture file. Save the picture, and drop the file.");
  });
}

function pictureIn(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find((each) => each.type.startsWith("image/")) ?? null;
}

/** The picture of a file, turned upright; throws where the browser does not know the format. */
export async function decode(file) {
  const picture = new Image();
  picture.src = URL.createObjectURL(file);
  try {
    await picture.decode();
  } catch {
    throw new Error(
      `This browser cannot show ${file.name || "this picture"}. ` +
        "Save it as JPEG, PNG or WebP, and choose it again.",
    );
  } finally {
    URL.revokeObjectURL(picture.src);
  }
  return picture;
}

/** Bytes for people, in the units of --max-upload: `31 MB`, `640 kB`. */
export function bytes(count) {
  const kilobytes = count / 1024;
  return kilobytes < 1000 ? `${Math.ceil(kilobytes)} kB` : `${Number((kilobytes / 1024).toFixed(1))} MB`;
}
