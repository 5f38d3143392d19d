"""What the page's script does around the choice of a picture, in every tab.

Gradio's components refuse a file by its type, which browsers take from its name, and many know no HEIC. The server goes
by the content, so a file of no image type is given one. What is too large is not sent at all.
"""

import gradio as gr

from cifar_lit.data.images import MAX_BYTES
from cifar_lit.serving.page.uploads import TOO_LARGE

_INPUT = 'input[type=file][accept="image/*"]'
_SCRIPT = f"""
element.setAttribute('aria-live', 'polite');
const asImage = (file) =>
  file.type.startsWith('image/') ? file : new File([file], file.name, {{type: 'image/unknown'}});
const taken = (files) => {{
  const bag = new DataTransfer(), refused = [];
  for (const file of files) file.size > {MAX_BYTES} ? refused.push(file) : bag.items.add(asImage(file));
  element.replaceChildren(...refused.map((file) => {{
    const said = document.createElement('p');
    said.className = 'problem';
    said.textContent = `${{file.name}} has ${{(file.size / 2**20).toFixed(1)}} MiB, {TOO_LARGE}`;
    return said;
  }}));
  if (refused.length) element.scrollIntoView({{block: 'nearest'}});
  return bag;
}};
document.addEventListener('change', (event) => {{
  const input = event.target;
  if (input.matches('{_INPUT}') && input.files.length) input.files = taken(input.files).files;
}}, true);
document.addEventListener('drop', (event) => {{
  if (event.dataTransfer?.files.length && event.target.closest('.block')?.querySelector('{_INPUT}'))
    Object.defineProperty(event, 'dataTransfer', {{value: taken(event.dataTransfer.files)}});
}}, true);

// The server may answer, or refuse, a picture that the browser can't show.
for (const type of ['error', 'load']) document.addEventListener(type, (event) => {{
  if (event.target.matches?.('.image-frame img'))
    event.target.closest('.block').classList.toggle('unseen', type === 'error');
}}, true);

// Without https, browsers give a page neither the camera nor the clipboard.
document.documentElement.classList.toggle('insecure', !isSecureContext);
"""


def build_choosing() -> None:
    """Adds the script, and the place for what it says, to the page that is being built."""
    gr.HTML("", js_on_load=_SCRIPT, elem_id="choosing", apply_default_css=False)


def brings_into_view(first: str, last: str) -> str:
    """A script for a `gr.HTML` with an answer: when it has come, what belongs to it is brought onto the screen.

    Args:
        first: CSS selector of the top of what is to be seen.
        last: that of its bottom.
    """
    return f"""watch('value', () => requestAnimationFrame(() => {{
  const first = document.querySelector('{first}'), last = document.querySelector('{last}');
  if (!first || !last) return;
  if (first.getBoundingClientRect().top >= 0 && last.getBoundingClientRect().bottom <= innerHeight) return;
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  first.scrollIntoView({{block: 'start', behavior: still ? 'auto' : 'smooth'}});
}}));"""
