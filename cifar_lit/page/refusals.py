"""Shows why an event was refused: Gradio's own script shows no words of those that do not go through its queue."""

HEAD = """<style>
.refusal { position: fixed; z-index: 1000; right: 16px; bottom: 16px; left: 16px; max-width: 480px; margin: 0 auto;
  padding: 12px 16px; border-radius: 8px; color: #fff; background: #b91c1c; font: 16px/1.4 system-ui, sans-serif; }
</style>
<script>
(() => {
  const send = window.fetch;
  const tell = (sentence) => {
    document.querySelector('.refusal')?.remove();
    const note = document.createElement('p');
    note.className = 'refusal';
    note.role = 'alert';
    note.textContent = sentence;
    note.addEventListener('click', () => note.remove());
    setTimeout(() => note.remove(), 10000);
    document.body.append(note);
  };
  window.fetch = async (...args) => {
    const answer = await send(...args);
    if (!answer.ok && new URL(answer.url).pathname.includes('/gradio_api/run/')) {
      const told = await answer.clone().json().catch(() => ({}));
      tell(told.error || told.detail || 'The server did not answer. Try again.');
    }
    return answer;
  };
})();
</script>"""
