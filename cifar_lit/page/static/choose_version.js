// A row is chosen by a click anywhere on it, or by its button, which the keyboard reaches.
element.addEventListener('click', (event) => {
  const row = event.target.closest('[data-version]');
  if (row) trigger('select', {value: row.dataset.version});
});
