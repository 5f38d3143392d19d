"""How the *Model* tab is styled, in the colours of the page's theme, light and dark."""

CSS = """
.m-hint, .m-account p { color: var(--body-text-color-subdued); }
.m-hint, .m-question { margin: 0; }
.m-question { font-size: 16px; font-weight: 600; }
#model-chosen:focus-visible { outline: none !important; }
.m-account a { text-decoration: underline; color: var(--link-text-color); }
#model-refresh { align-self: end; }
#model-outcome:not(:has(p)), #model-style { display: none; }
.m-details .m-warning, .m-warning, .m-success { margin: 8px 0; padding: 10px 12px; border-radius: 8px;
  border-left: 4px solid; }
.m-warning { color: #7f1d1d; background: #fef2f2; border-color: #dc2626; }
.m-success { color: #14532d; background: #f0fdf4; border-color: #16a34a; }
.dark .m-warning { color: #fecaca; background: #3b1213; }
.dark .m-success { color: #bbf7d0; background: #0d2b18; }
.m-empty { color: var(--body-text-color-subdued); }
.m-scroll, .m-pan, .m-text pre { contain: inline-size; }
.m-scroll { max-height: 26rem; overflow: auto; border: 1px solid var(--border-color-primary); border-radius: 8px; }
table.m-list { width: 100%; margin: 0; padding: 0; border-collapse: collapse; font-size: 14px; line-height: 1.45; }
.m-list th, .m-list td { padding: 8px 10px; border: 0; text-align: left; vertical-align: top; }
.m-list thead th { position: sticky; top: 0; z-index: 1; font-weight: 600; white-space: nowrap;
  color: var(--body-text-color-subdued); background: var(--background-fill-secondary); }
.m-list tbody tr { border-top: 1px solid var(--border-color-primary); background: var(--background-fill-primary); }
.m-list tr[data-version] { cursor: pointer; }
.m-list tr[data-version]:hover { background: var(--background-fill-secondary); }
.m-list tr.m-chosen { background: var(--background-fill-secondary); box-shadow: inset 4px 0 var(--color-accent); }
.m-list td { white-space: nowrap; }
.m-list .m-num { text-align: right; font-variant-numeric: tabular-nums; }
.m-list td.m-why { min-width: 16rem; white-space: normal; color: var(--body-text-color-subdued); }
.m-why span { display: -webkit-box; overflow: hidden; -webkit-box-orient: vertical; -webkit-line-clamp: 2;
  line-clamp: 2; overflow-wrap: anywhere; }
.m-list button { padding: 1px 8px; border: 1px solid var(--border-color-primary); border-radius: 6px; font: inherit;
  font-weight: 600; cursor: pointer; color: inherit; background: var(--background-fill-primary); }
.m-list button:focus-visible, .m-scroll:focus-visible, .m-pan:focus-visible, .m-text pre:focus-visible,
.m-text summary:focus-visible, .m-account button:focus-visible, .m-account a:focus-visible
  { outline: 3px solid var(--color-accent); outline-offset: 1px; }
.m-badge { display: inline-block; padding: 0 8px; border: 1px solid; border-radius: 999px; font-size: 12px;
  line-height: 20px; font-weight: 600; white-space: nowrap; }
.m-good { color: #166534; background: #f0fdf4; } .m-bad { color: #991b1b; background: #fef2f2; }
.m-plain { color: #3f3f46; background: #f4f4f5; } .m-accent { color: #1e40af; background: #eff6ff; }
.dark .m-good { color: #86efac; background: #0d2b18; } .dark .m-bad { color: #fca5a5; background: #3b1213; }
.dark .m-plain { color: #d4d4d8; background: #27272a; } .dark .m-accent { color: #93c5fd; background: #172554; }
.m-details h3 { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; margin: 0 0 8px; font-size: 22px; }
.m-details h4 { margin: 20px 0 8px; font-size: 17px; font-weight: 600; }
.m-reason { overflow-wrap: anywhere; }
.m-details .m-facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 10px 20px;
  margin: 12px 0; }
.m-facts dt { font-size: 12px; color: var(--body-text-color-subdued); }
.m-facts dd { margin: 0; font-weight: 500; overflow-wrap: anywhere; }
.m-text { margin: 8px 0; }
.m-text summary { cursor: pointer; font-weight: 600; }
.m-text pre { max-height: 30rem; margin: 6px 0 0; padding: 12px; overflow: auto; border-radius: 8px; font-size: 12.5px;
  line-height: 1.5; white-space: pre; color: var(--body-text-color); background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); }
.m-figure { margin: 14px 0; }
.m-figure figcaption { margin-bottom: 4px; font-weight: 600; }
.m-pan { overflow-x: auto; border: 1px solid var(--border-color-primary); border-radius: 8px; background: #fff; }
.m-pan img { display: block; width: 100%; min-width: 520px; max-width: 760px; height: auto; margin: 0 auto; }
.m-wide img { min-width: 1000px; max-width: none; }
.m-compared { display: grid; grid-template-columns: 200px 1fr; gap: 20px; }
.m-seen img { width: 100%; max-width: 200px; margin: 0; border-radius: 8px; image-rendering: pixelated; }
.m-seen p, .m-legend { margin: 6px 0; font-size: 13px; color: var(--body-text-color-subdued); }
.m-verdict { margin: 0 0 6px; font-size: 16px; }
.m-legend span { display: inline-flex; align-items: center; gap: 6px; margin-right: 14px; }
.m-legend i { width: 12px; height: 12px; border-radius: 3px; }
.m-class { display: grid; grid-template-columns: 92px 1fr; gap: 10px; align-items: center; padding: 4px 0;
  border-top: 1px solid var(--border-color-primary); font-size: 14px; }
.m-bar { display: grid; grid-template-columns: 1fr 56px; gap: 8px; align-items: center; height: 17px; }
.m-bar i { display: block; height: 11px; min-width: 2px; border-radius: 3px; }
.m-bar b { font-size: 13px; font-weight: 500; text-align: right; font-variant-numeric: tabular-nums; }
.m-bar0 i { background: #2563eb; } .m-bar1 i { background: #d97706; }
.m-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.m-account { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 12px; }
.m-account p, .m-account form { margin: 0; }
.m-account button { padding: 4px 10px; border: 1px solid var(--border-color-primary); border-radius: 6px; font: inherit;
  cursor: pointer; color: inherit; background: var(--background-fill-primary); }
@media (max-width: 720px) {
  .m-scroll { max-height: 32rem; }
  .m-list thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .m-list, .m-list tbody { display: block; }
  .m-list tr { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 2px 12px; padding: 10px 12px; }
  .m-list th, .m-list td { padding: 1px 0; white-space: normal; }
  .m-list tbody tr > :nth-child(2) { text-align: right; white-space: normal; }
  .m-list .m-num { text-align: left; }
  .m-list td { font-size: 13px; }
  .m-list td[data-label]:not([data-label=""])::before
    { content: attr(data-label) ": "; color: var(--body-text-color-subdued); }
  .m-list.m-history tbody tr > :nth-child(2) { text-align: left; }
  .m-list.m-history tr { grid-template-columns: minmax(0, 1fr); }
  .m-list td.m-why { grid-column: 1 / -1; min-width: 0; }
  .m-compared { grid-template-columns: 1fr; }
  .m-seen { display: flex; align-items: center; gap: 12px; }
  .m-seen img { width: 96px; }
}
"""
