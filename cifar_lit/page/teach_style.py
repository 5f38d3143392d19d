"""How the *Teach* tab is styled, in the colours of the page's theme, light and dark."""

CSS = """
#teach-style, #teach-outcome:not(:has(p)), #teach-many-outcome:not(:has(p)), #teach-start-outcome:not(:has(p)),
  #teach-progress:not(:has(p)) { display: none; }
.hint a { text-decoration: underline; color: var(--link-text-color); }
.gradio-container h2.t-step { display: flex; align-items: center; gap: 0.6rem; margin: 0 0 0.4rem; font-size: 1.25rem;
  font-weight: 600; }
.gradio-container .t-step span { display: grid; place-items: center; flex: none; width: 1.75rem; height: 1.75rem;
  border-radius: 50%; font-size: 0.95rem; color: #fff; background: var(--color-accent); }
.t-hint, .t-took { margin: 0; color: var(--body-text-color-subdued); }
.t-took { font-size: 0.85rem; }
.t-account { display: flex; flex-wrap: wrap; align-items: center; justify-content: space-between; gap: 0.5rem 1rem;
  margin: 0; color: var(--body-text-color-subdued); }
.t-account button { padding: 0.25rem 0.65rem; border: 1px solid var(--border-color-primary); border-radius: 6px;
  font: inherit; cursor: pointer; color: var(--body-text-color); background: var(--background-fill-primary); }
.t-seen { display: flex; align-items: center; gap: 1rem; }
#teach-seen .pixels { width: 96px; flex: none; }
.t-seen p { margin: 0; }
.t-said span { white-space: nowrap; }
.t-seen .t-said { font-size: 1.4rem; line-height: 1.35; }
.t-done { margin: 0; padding: 0.5em 0.75em; border-left: 4px solid #16a34a; border-radius: 4px; background: #16a34a1f; }
.t-thumbs { display: flex; flex-wrap: wrap; gap: 4px; margin: 0.6rem 0; }
#teach-many-outcome .pixels { width: 2.5rem; border-radius: 4px; }
.problem ul { margin: 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
.problem p { margin: 0; }
#teach-audit .t-text { max-height: 22rem; margin: 0.75rem 0; padding: 12px; overflow: auto; border-radius: 8px;
  font-size: 12.5px; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; color: var(--body-text-color);
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
.t-doubts { margin: 0; }
.t-doubts figcaption { margin: 0 0 0.35rem; font-weight: 600; }
.t-doubts img { width: 100%; max-width: 640px; margin: 0; border-radius: 8px; background: #fff; }
.t-waiting { margin: 0; font-size: 1.05rem; }
.t-waiting strong { font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.t-stage { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; margin: 0 0 0.4rem; }
.t-stage span { font-variant-numeric: tabular-nums; color: var(--body-text-color-subdued); }
.t-bar { height: 0.75rem; overflow: hidden; border-radius: 999px; background: var(--border-color-primary); }
.t-bar i { display: block; height: 100%; border-radius: 999px; background: var(--color-accent);
  transition: width 0.6s ease-out; }
.t-verdict { padding: 1rem; border: 1px solid var(--border-color-primary); border-left: 4px solid #64748b;
  border-radius: 8px; }
.t-verdict.t-good { border-left-color: #16a34a; } .t-verdict.t-bad { border-left-color: #dc2626; }
.t-verdict h3 { display: flex; flex-wrap: wrap; align-items: center; gap: 0.6rem; margin: 0 0 0.4rem;
  font-size: 1.5rem; }
.t-verdict p { margin: 0 0 0.6rem; overflow-wrap: anywhere; }
.t-badge { padding: 0 0.6rem; border: 1px solid; border-radius: 999px; font-size: 0.85rem; font-weight: 600;
  line-height: 1.6; color: #3f3f46; background: #f4f4f5; }
.t-good .t-badge { color: #166534; background: #f0fdf4; } .t-bad .t-badge { color: #991b1b; background: #fef2f2; }
.dark .t-badge { color: #d4d4d8; background: #27272a; }
.dark .t-good .t-badge { color: #86efac; background: #0d2b18; }
.dark .t-bad .t-badge { color: #fca5a5; background: #3b1213; }
#teach-verdict .t-figures { width: 100%; margin: 0 0 0.75rem; border-collapse: collapse; border: 0; font-size: 0.95rem;
  font-variant-numeric: tabular-nums; }
.t-figures caption { padding-bottom: 0.25rem; font-weight: 600; text-align: left; }
#teach-verdict .t-figures :is(th, td) { padding: 0.4rem 0 0.4rem 0.6rem; border-width: 0 0 1px; text-align: right;
  border-color: var(--border-color-primary); background: none; }
#teach-verdict .t-figures tr > :first-child { padding-left: 0; text-align: left; font-weight: 400; line-height: 1.3; }
.t-figures :is(th, td) { white-space: nowrap; }
.t-figures tbody th { white-space: normal; }
.t-figures small { display: block; white-space: nowrap; color: var(--body-text-color-subdued); }
.t-figures .t-up { font-weight: 600; color: #15803d; } .t-figures .t-down { font-weight: 600; color: #b91c1c; }
.t-done + .problem { margin-top: 0.6rem; }
@media (max-width: 640px), (max-height: 500px) { #teach-picture { height: 180px !important; } }
@media (max-width: 520px) {
  #teach-verdict .t-figures tr { display: grid; grid-template-columns: repeat(3, 1fr); padding: 0.35rem 0;
    border-bottom: 1px solid var(--border-color-primary); }
  #teach-verdict .t-figures :is(th, td) { padding: 0; border: 0; text-align: left; }
  .t-figures thead td { display: none; }
  .t-figures tbody th { grid-column: 1 / -1; }
  .t-figures small { display: inline; margin-left: 0.5em; }
}
.dark .t-figures .t-up { color: #4ade80; } .dark .t-figures .t-down { color: #f87171; }
"""
