// When an answer has come, what belongs to it is brought onto the screen: from FIRST, a CSS selector, to LAST.
watch('value', () => requestAnimationFrame(() => {
  const first = document.querySelector(FIRST), last = document.querySelector(LAST);
  if (!first || !last) return;
  if (first.getBoundingClientRect().top >= 0 && last.getBoundingClientRect().bottom <= innerHeight) return;
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  first.scrollIntoView({block: 'start', behavior: still ? 'auto' : 'smooth'});
}));
