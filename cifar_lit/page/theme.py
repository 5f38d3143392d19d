"""Colours and type. Nothing comes from the internet."""

import gradio as gr

THEME = gr.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    # Gradio's default fonts would come from the internet.
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # Gradio's own is too pale to be read easily.
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    body_background_fill="*neutral_50",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_border_color_dark="*neutral_700",
)
