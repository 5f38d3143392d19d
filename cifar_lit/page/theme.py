"""Colours, type and the few rules of CSS that Gradio's own do not cover. Nothing comes from the internet."""

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

CSS = """
.gradio-container { max-width: 1120px !important; margin: 0 auto !important; }
.gradio-container > .main { padding-inline: clamp(16px, 4vw, 32px) !important; }
footer .divider { display: none; }
:is(button, a, input, summary, [tabindex]):focus-visible {
  outline: 3px solid var(--color-accent) !important; outline-offset: 2px; }

/* A spinner, if the answer takes longer than a moment; until then it would only flicker. */
:is(#answer, #seen, #answers) > .wrap:not(.hide) { animation: appear 0s 0.3s both; }
@keyframes appear { from { visibility: hidden; } }

#page-header h1 { font-size: 1.75rem; margin: 0.25rem 0; }
#page-header p { font-size: 1rem; margin: 0; color: var(--body-text-color-subdued); }
#status p { margin: 0; font-size: 0.95rem; }
#status .since { color: var(--body-text-color-subdued); }
.lamp { display: inline-block; width: 0.6em; height: 0.6em; border-radius: 50%; margin-right: 0.5em;
  background: #16a34a; }
.problem { border-left: 4px solid #dc2626; padding: 0.5em 0.75em; background: #dc26261f; border-radius: 4px; }
#status .problem { margin-top: 0.5rem; }
.hint { padding: 1.25rem; border: 1px dashed var(--border-color-primary); border-radius: 8px; margin: 0;
  color: var(--body-text-color-subdued); }

#choosing:not(:has(p)) { display: none; }
#choosing p { margin: 0; overflow-wrap: anywhere; }

#classify { display: grid; grid-template: "picture answer" "examples answer" 1fr "seen seen" / 1fr 1fr; }
#classify > * { min-width: 0 !important; }
#picture { grid-area: picture; } #answer { grid-area: answer; } #examples { grid-area: examples; }
#seen { grid-area: seen; } #seen:not(:has(.figures)) { display: none; }

/* How far an upload is: a bar instead of a small ring. */
.uploading { text-align: center; }
.uploading::after { content: ""; display: block; width: 14rem; max-width: 60vw; height: 0.5rem; margin: 0.5rem auto 0;
  border-radius: 999px; background: linear-gradient(var(--color-accent) 0 0) 0 0 / var(--upload-progress-width, 0%) 100%
  no-repeat, var(--border-color-primary); }
.wrap .file { max-width: min(18rem, 80vw); }
.wrap .file > span:has(.progress-bar) { display: none; }
.wrap .file-name { overflow: hidden; font-size: 0.85rem; white-space: nowrap; text-overflow: ellipsis;
  color: var(--body-text-color-subdued); }

/* What the browser can't show. */
.unseen .image-frame img { display: none; }
.unseen .image-frame::after { content: "This browser can't show the file."; display: grid; place-items: center;
  height: 100%; color: var(--body-text-color-subdued); }
.insecure :is([aria-label="Capture from camera"], [aria-label="Paste from clipboard"]) { display: none; }

/* A small picture is shown as large as a large one. */
:is(#picture, #teach-picture, #model-picture) .image-frame img { object-fit: contain; }

#examples h2 { font-size: 0.95rem; margin: 0 0 0.4rem; }
#examples ul { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0.6rem; list-style: none;
  margin: 0; padding: 0; }
#examples li { margin: 0; }
#examples button { display: flex; flex-direction: column; width: 100%; height: 100%; padding: 0.3rem; cursor: pointer;
  border: 1px solid var(--border-color-primary); border-radius: 8px; background: var(--block-background-fill);
  color: var(--body-text-color); font-size: 0.85rem; font-weight: 400; line-height: 1.25; }
#examples button:hover { border-color: var(--color-accent); }
#examples img { width: 100%; aspect-ratio: 1; border-radius: 5px; margin: 0 0 0.25rem; image-rendering: auto; }
#examples span { width: 100%; text-align: center; }

.verdict { display: flex; align-items: baseline; gap: 0.75rem; margin: 0; font-size: 2.25rem; line-height: 1.2; }
.verdict .share { font-size: 1.4rem; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.remark { margin: 0.25rem 0 0.75rem; }
#probabilities { width: 100%; border-collapse: collapse; margin: 0; border: 0; }
#probabilities :is(tr, th, td) { border: 0; background: none; padding: 0.22rem 0; line-height: 1.3; }
#probabilities th { width: 6.5rem; font-weight: 400; text-align: left; }
#probabilities .bar i { display: block; height: 0.85rem; min-width: 2px; border-radius: 3px;
  background: var(--color-accent); }
#probabilities tr:not(:first-child) .bar i { opacity: 0.55; }
#probabilities .figure { width: 4.25rem; text-align: right; font-variant-numeric: tabular-nums; }
#probabilities tr:first-child :is(th, .figure) { font-weight: 600; }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 1.25rem; }
.figures figure { margin: 0; }
.figures .facts { grid-column: span 2; min-width: 0; }
.facts :is(p, li, ul) { font-size: 0.9rem; margin: 0 0 0.4rem; }
.pixels { image-rendering: pixelated; width: 100%; aspect-ratio: 1; border-radius: 6px; margin: 0; }
figcaption { font-size: 0.9rem; margin-top: 0.35rem; line-height: 1.35; }

.scroll { overflow-x: auto; width: 0; min-width: 100%; }  /* a wide table does not widen the page */
.prose .answers { width: 100%; border-collapse: collapse; border: 0 !important; font-variant-numeric: tabular-nums; }
.answers caption { text-align: left; padding-bottom: 0.4rem; }
.prose .answers :is(thead, tbody, tr) { border: 0 !important; }
.prose .answers :is(th, td) { text-align: left; padding: 0.4rem 0.5rem; border-width: 0 0 1px;
  border-color: var(--border-color-primary); }
.prose .answers td.problem { border-left: 4px solid #dc2626; border-radius: 0; }
.answers td:first-child { width: 4rem; }
.answers .pixels { width: 3rem; }
.answers .name { overflow-wrap: anywhere; min-width: 5rem; }

@media (max-width: 640px), (max-height: 500px) {
  #page-header .html-container, #status .html-container { padding-block: 0 !important; }
  #page-header h1 { font-size: 1.4rem; }
  #page-header p { font-size: 0.95rem; line-height: 1.4; }
  #status p { font-size: 0.82rem; text-wrap: balance; }
  #status .since { display: none; }
  #picture { height: 220px !important; }
  .hint { padding: 0.75rem; }
  .verdict { font-size: 1.9rem; }
  .remark { margin: 0.1rem 0 0.4rem; line-height: 1.35; }
  #probabilities th { width: 5.75rem; }
  #probabilities :is(tr, th, td) { padding: 0.13rem 0; }
  /* Once there is an answer, it is what one wants to see. */
  .column:not(:has(#answer .hint)) #page-header { h1 { font-size: 1.1rem; margin: 0; } p { display: none; } }
  .column:has(#teach-said) #page-header { h1 { font-size: 1.1rem; margin: 0; } p { display: none; } }
}
@media (max-width: 640px) {
  #classify { grid-template: "picture" "answer" "seen" "examples" / 1fr; row-gap: 0.25rem; }
  .prose .answers thead { display: none; }
  .prose .answers tbody tr { display: grid; grid-template: "seen name" "seen said" / 3rem minmax(0, 1fr);
    column-gap: 0.75rem; padding: 0.5rem 0; border-bottom: 1px solid var(--border-color-primary) !important; }
  .prose .answers tbody tr:has(.problem) { grid-template: "name" "said" / minmax(0, 1fr); row-gap: 0.25rem; }
  .prose .answers tbody td { grid-area: said; padding: 0; border-width: 0 !important; }
  .prose .answers tbody td:first-child { grid-area: seen; }
  .prose .answers tr:has(.problem) td:first-child { display: none; }
  .prose .answers tbody td.name { grid-area: name; overflow: hidden; font-size: 0.85rem; white-space: nowrap;
    text-overflow: ellipsis; color: var(--body-text-color-subdued); }
  .prose .answers tbody td.problem { padding: 0.25rem 0.6rem; border-left: 4px solid #dc2626 !important; }
}
"""
