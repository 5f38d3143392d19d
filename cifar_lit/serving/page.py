"""The Gradio page: one picture in, the answer of one version out. It loads nothing from the internet."""

from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from cifar_lit.errors import ImageError, SettingError
from cifar_lit.serving.predictor import Predictor

TITLE = "CIFAR-10 classifier"
MAX_FILE_SIZE = 5 * gr.FileSize.MB
_QUEUE_SIZE = 64

_INTRODUCTION = """# {title}
Choose a picture, and the network says which of its ten classes it takes it for: {classes}.
It sees the central square of your picture at 32 x 32 pixels, and it knows nothing but these ten."""

_THEME = gr.themes.Default(
    font=["system-ui", "sans-serif"],  # the default fonts would come from the internet
    font_mono=["ui-monospace", "monospace"],
)


def _uploaded_path(upload: gr.data_classes.FileData | None) -> Path | None:
    """Where the server keeps a visitor's upload. A request may claim any path: only uploads are read."""
    if upload is None:
        return None
    path = Path(upload.path or "").resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("This picture was not uploaded here.", print_exception=False)
    return path


def build_page(predictor: Predictor) -> gr.Blocks:
    """The page that answers from `predictor`."""
    class_names = predictor.class_names

    def predict(image: Path | None) -> tuple[dict[str, float] | None, str]:
        """Classifies an image file (PNG, JPEG or WebP); gives the probability of each class and a sentence."""
        if image is None:
            return None, ""
        try:
            answer = predictor.predict_bytes(image.read_bytes())
        except ImageError as error:
            raise gr.Error(f"This can't be classified: {error}", duration=None, print_exception=False) from error
        sentence = f"**{answer.prediction}**, with {answer.confidence:.1%} confidence. Answered by {answer.version}."
        return answer.probabilities, sentence

    page: gr.Blocks = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600))
    with page:
        gr.Markdown(_INTRODUCTION.format(title=TITLE, classes=", ".join(class_names)))
        with gr.Row(equal_height=False):
            image = gr.Image(label="Your picture", sources=["upload", "clipboard", "webcam"], height=340)
            # gr.Image would open the upload with Pillow; a visitor's bytes are to meet only our own decoder.
            image.preprocess = _uploaded_path  # type: ignore[method-assign,assignment]
            with gr.Column():
                sentence = gr.Markdown(f"Version {predictor.version} is ready.")
                label = gr.Label(label="Probabilities", num_top_classes=len(class_names), show_heading=False)
        image.change(predict, image, [label, sentence], api_name="predict", show_progress="minimal")
    page.queue(max_size=_QUEUE_SIZE)
    return page


def launch(page: gr.Blocks, *, host: str, port: int, block: bool = True) -> None:
    """Serves the page until Ctrl-C, or in the background if `block` is false.

    Raises:
        SettingError: the port is taken, or the address is not this machine's.
    """
    try:
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=MAX_FILE_SIZE,
            theme=_THEME,
            share=False,
            footer_links=["api"],
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise SettingError(f"{host}:{port} can't be listened on. Name another --port, or another --host.") from error
    print(f"The page is at {page.local_url} (Ctrl-C ends it).", flush=True)
    if block:
        page.block_thread()
