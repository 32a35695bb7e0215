// Explains terms on hover and focus, and offers each table as CSV.
'use strict';

function explainTerms() {
  const tip = document.createElement('div');
  tip.id = 'tip';
  tip.setAttribute('role', 'tooltip');
  tip.hidden = true;
  document.body.append(tip);
  const show = (event) => {
    const word = event.target.closest && event.target.closest('.term');
    if (!word) return;
    // The browser's own tooltip would hide ours.
    if (word.title) {
      word.dataset.meaning = word.title;
      word.removeAttribute('title');
    }
    tip.textContent = word.dataset.meaning;
    tip.hidden = false;
    word.setAttribute('aria-describedby', 'tip');
    const at = word.getBoundingClientRect();
    const right = document.documentElement.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(4, Math.min(at.left, right))}px`;
    const below = at.bottom + 6;
    const fits = below + tip.offsetHeight < document.documentElement.clientHeight;
    tip.style.top = `${fits ? below : Math.max(4, at.top - 6 - tip.offsetHeight)}px`;
  };
  const hide = (event) => {
    tip.hidden = true;
    const word = event.target.closest && event.target.closest('.term');
    if (word) word.removeAttribute('aria-describedby');
  };
  for (const name of ['mouseover', 'focusin', 'click']) document.addEventListener(name, show);
  for (const name of ['mouseout', 'focusout']) document.addEventListener(name, hide);
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') tip.hidden = true; });
  document.addEventListener('scroll', () => { tip.hidden = true; }, { capture: true, passive: true });
}

function csvLine(cells) {
  return cells.map((cell) => {
    let text = String(cell).replace(/−/g, '-');
    // A spreadsheet would run what begins like a formula.
    if (/^[=+\-@\t\r]/.test(text) && !/^[+-]?[\d.]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  }).join(',') + '\r\n';
}

function download(name, text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob(['\ufeff', text], { type: 'text/csv' }));
  link.download = `${name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function csvButton(name, lines) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'csv';
  button.textContent = 'CSV';
  button.setAttribute('aria-label', `Download ${name} as CSV`);
  button.addEventListener('click', () => download(name, lines().map(csvLine).join('')));
  return button;
}

function cellText(cell) {
  // What stands small below a value, such as its interval, follows it in brackets.
  const small = [...cell.querySelectorAll('small')].map((part) => part.textContent);
  const copy = cell.cloneNode(true);
  copy.querySelectorAll('small').forEach((part) => part.remove());
  return [copy.textContent, ...small.map((text) => `(${text})`)].join(' ').trim();
}

function offerTables() {
  for (const table of document.querySelectorAll('table[data-name]')) {
    const lines = () => [...table.rows].map((row) => [...row.cells].map(cellText));
    table.parentElement.after(csvButton(table.dataset.name, lines));
  }
}

explainTerms();
offerTables();
