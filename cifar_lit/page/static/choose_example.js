element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-name]');
  if (!button) return;
  trigger('select', {name: button.dataset.name});
  document.querySelector('#picture').scrollIntoView({block: 'nearest'});
});
