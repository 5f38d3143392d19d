// What is done around the choice of a picture, in every tab: MAX_BYTES, and TOO_LARGE, which is said of larger files.
// Gradio's components refuse a file by its type, which browsers take from its name, and many know no HEIC. The server
// goes by the content, so a file of no image type is given one. What is too large is not sent at all.
const INPUT = 'input[type=file][accept="image/*"]';
element.setAttribute('aria-live', 'polite');
const fits = (file) => file.size <= MAX_BYTES;
const isImage = (file) => file.type.startsWith('image/');
const say = (file) => {
  const said = document.createElement('p');
  said.className = 'problem';
  said.textContent = `${file.name} has ${(file.size / 2**20).toFixed(1)} MiB, ${TOO_LARGE}`;
  return said;
};
// What is to be taken instead of these files; nothing if they are taken as they are.
const instead = (list) => {
  const files = [...list], bag = new DataTransfer();
  element.replaceChildren(...files.filter((file) => !fits(file)).map(say));
  if (element.firstChild) element.scrollIntoView({block: 'nearest'});
  if (files.every((file) => fits(file) && isImage(file))) return;
  for (const file of files.filter(fits))
    bag.items.add(isImage(file) ? file : new File([file], file.name, {type: 'image/unknown'}));
  return bag;
};
document.addEventListener('change', (event) => {
  const input = event.target;
  if (!input.matches(INPUT) || !input.files.length) return;
  const bag = instead(input.files);
  if (bag) input.files = bag.files;
}, true);
document.addEventListener('drop', (event) => {
  const zone = event.target.closest?.('.block')?.querySelector(INPUT);
  if (!zone || !event.dataTransfer?.files.length) return;
  const bag = instead(event.dataTransfer.files);
  if (bag) Object.defineProperty(event, 'dataTransfer', {value: bag});
}, true);

// The server may answer, or refuse, a picture that the browser can't show.
for (const type of ['error', 'load']) document.addEventListener(type, (event) => {
  if (event.target.matches?.('.image-frame img'))
    event.target.closest('.block').classList.toggle('unseen', type === 'error');
}, true);

// Without https, browsers give a page neither the camera nor the clipboard.
document.documentElement.classList.toggle('insecure', !isSecureContext);
