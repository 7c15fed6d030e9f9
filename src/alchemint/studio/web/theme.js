// Sets the chosen colours before the page is first drawn: a module would come too late.
(() => {
  let chosen = 'auto';
  try {
    chosen = localStorage.getItem('alchemint.theme') ?? 'auto';
  } catch {
    // Storage may be switched off; then the system's colours are taken.
  }
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
})();
