// Explains terms on hover and focus, and offers each table as CSV. What the other files share.
'use strict';

const DATA = JSON.parse(document.getElementById('page-data').textContent);

// Returns a number as Python's format does: of two equally near ones the even one.
function fixed(value, digits) {
  const longer = value.toFixed(digits + 1);
  const isTie = Number.isInteger(value * 2 ** (digits + 1)) && longer.endsWith('5');
  const down = longer.slice(0, -1);
  return isTie && '02468'.includes(down.at(-1)) ? down : value.toFixed(digits);
}

// Returns an element; texts among the children stay texts.
function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function explainTerms() {
  const tip = make('div', { id: 'tip', role: 'tooltip', hidden: true });
  document.body.append(tip);
  let shown = null;
  const place = () => {
    const at = shown.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    const left = Math.max(4, Math.min(at.left, clientWidth - tip.offsetWidth - 4));
    const fitsBelow = at.bottom + 6 + tip.offsetHeight < clientHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${fitsBelow ? at.bottom + 6 : Math.max(4, at.top - 6 - tip.offsetHeight)}px`;
  };
  const hide = () => {
    tip.hidden = true;
    if (shown) shown.removeAttribute('aria-describedby');
    shown = null;
  };
  const show = (event) => {
    const word = event.target.closest && event.target.closest('.term');
    if (!word) return;
    hide();
    // The browser's own tooltip would hide ours.
    if (word.title) {
      word.dataset.meaning = word.title;
      word.removeAttribute('title');
    }
    shown = word;
    tip.textContent = word.dataset.meaning;
    tip.hidden = false;
    word.setAttribute('aria-describedby', 'tip');
    place();
  };
  for (const name of ['mouseover', 'focusin', 'click']) document.addEventListener(name, show);
  for (const name of ['mouseout', 'focusout']) document.addEventListener(name, hide);
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') hide(); });
  // To reach a term by keyboard may scroll; a term under the pointer moves away.
  document.addEventListener('scroll', () => {
    if (shown && shown === document.activeElement) place();
    else hide();
  }, { capture: true });
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
  const href = URL.createObjectURL(new Blob(['\ufeff', text], { type: 'text/csv' }));
  const link = make('a', { href, download: `${name}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function csvButton(name, lines) {
  const button = make('button', { type: 'button', className: 'csv' }, 'CSV');
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
