() => {
  const heading = document.getElementById('model-chosen');
  if (heading) { heading.scrollIntoView({block: 'start'}); heading.focus({preventScroll: true}); }
}
