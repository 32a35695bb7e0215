// The reader of cases: search, filters, a page of the list at a time, and twins side by side.
'use strict';

const PER_PAGE = 25;
// Texts of more words than this are compared at their beginnings and ends alone.
const MAX_WORDS_COMPARED = 1500;

const letter = (index) => String.fromCharCode(65 + index);
const probability = (value) => (value === null ? '–' : fixed(value, 3));

// Returns the words of a text, each with whether it is in no longest common run with the other.
function compare(one, other) {
  const [a, b] = [one, other].map((text) => text.match(/\s+|[^\s]+/g) || []);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  const most = Math.min(a.length, b.length) - start;
  while (end < most && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const [x, y] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  const common = commonWords(x, y);
  const differs = a.map((_, i) => i >= start && i < start + x.length && !common.has(i - start));
  // A blank between two words that differ is marked with them, any other is not.
  return a.map((word, i) => [
    word, word.trim() === '' ? Boolean(differs[i - 1] && differs[i + 1]) : differs[i]]);
}

// Returns the indices of the words of x in a longest common run of both.
function commonWords(x, y) {
  const common = new Set();
  if (Math.max(x.length, y.length) > MAX_WORDS_COMPARED) return common;
  const width = y.length + 1;
  const longest = new Uint16Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i -= 1) {
    for (let j = y.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] = x[i] === y[j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  for (let i = 0, j = 0; i < x.length && j < y.length;) {
    if (x[i] === y[j]) {
      common.add(i); i += 1; j += 1;
    } else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return common;
}

function marked(text, twin) {
  if (twin === undefined) return [text];
  const runs = [];
  for (const [word, differs] of compare(text, twin)) {
    if (runs.length && runs.at(-1)[1] === differs) runs.at(-1)[0] += word;
    else runs.push([word, differs]);
  }
  return runs.map(([words, differs]) => (differs ? make('mark', {}, words) : words));
}

function turns(record, twin) {
  return record.turns.map(([role, name, text], i) => {
    const other = twin && twin.turns && (twin.turns[i] || ['', '', ''])[2];
    const who = name ? `${name} (${role})` : role;
    return make('p', { className: 'turn' }, make('b', {}, who), ...marked(text, other));
  });
}

function answers(evaluation, record, row, twin) {
  // What is written without a behavior stands last: it is a comparison.
  const order = evaluation.branches.map((_, b) => b).sort((a, b) => (a === 0) - (b === 0));
  const heads = order.map((b) => {
    const name = evaluation.branches[b];
    const c = evaluation.behaviors.indexOf(name);
    const notes = [];
    if (row.choice && c >= 0) notes.push(`p ${probability(row.choice[c])}`);
    if (b === row.branch) notes.push('taken');
    return make('th', { scope: 'col' }, name,
      make('small', {}, notes.join(', ') || '\u00a0'));
  });
  const lines = Array.from({ length: row.options[0] ? row.options[0].length : 0 }, (_, k) => {
    const text = record.options ? record.options[k] : '';
    const twinText = twin && twin.options ? twin.options[k] : undefined;
    const notes = [record.stands[k], k === record.answer && 'right', k === row.prediction && 'chosen'];
    const cells = order.map((b) => make(
      'td', { className: b === row.branch && k === row.prediction ? 'picked' : '' },
      probability(row.options[b][k]), bar(row.options[b][k]),
    ));
    return make('tr', { className: k === record.answer ? 'right' : '' },
      make('td', { className: 'name' }, `${letter(k)}. `, ...marked(text, twinText),
        make('small', {}, notes.filter(Boolean).join(', '))),
      ...cells);
  });
  return make('table', { className: 'answers' },
    make('thead', {}, make('tr', {}, make('th', { scope: 'col', className: 'name' }, 'answer'),
      ...heads)),
    make('tbody', {}, ...lines));
}

function bar(value) {
  const filled = make('i', {});
  filled.style.width = `${100 * value}%`;
  return make('span', { className: 'bar', 'aria-hidden': 'true' }, filled);
}

function startReader() {
  const place = document.getElementById('cases');
  const records = DATA.records;
  const words = records.map((record) => [
    record.id, record.case, record.category, record.group, record.label,
    ...(record.turns || []).flatMap(([, name, text]) => [name, text]), ...(record.options || []),
  ].join('\n').toLowerCase());
  const byRecord = DATA.evaluations.map(({ rows }) => new Map(rows.map((row) => [row.record, row])));
  const twins = new Map();
  records.forEach((record, n) => {
    if (record.pair) twins.set(record.pair, [...(twins.get(record.pair) || []), n]);
  });
  const state = { evaluation: 0, page: 0, found: [] };

  const options = (names) => names.map(([value, text]) => make('option', { value }, text));
  const evaluationBox = make('select', { id: 'evaluation' },
    ...options(DATA.evaluations.map(({ name }, n) => [n, name])));
  const find = make('input', { type: 'search', id: 'find', placeholder: 'Words, id or category' });
  find.setAttribute('aria-label', 'Search cases');
  const categories = [...new Set(records.map(({ category }) => category))].sort();
  const categoryBox = make('select', { id: 'category' }, make('option', { value: '' }, 'all'),
    ...options(categories.map((name) => [`=${name}`, name || '–'])));
  const orderBox = make('select', { id: 'order' }, ...options([
    ['worst', 'worst first'], ['margin', 'smallest margin first'], ['file', 'as in the file'],
  ]));
  const flags = { ...DATA.flags };
  if (DATA.evaluations.length > 1) flags.differ = ['answers differ', 'two evaluations answer differently'];
  const boxes = Object.keys(flags).map((name) => make('input', { type: 'checkbox', value: name }));
  const counts = boxes.map(() => make('span', {}));
  const status = make('p', { className: 'soft', role: 'status' });
  const list = make('div', {});
  const previous = make('button', { type: 'button' }, 'Previous');
  const next = make('button', { type: 'button' }, 'Next');
  const current = () => DATA.evaluations[state.evaluation];

  function hasFlag(row, name) {
    if (name !== 'differ') return row.flags.includes(name);
    return byRecord.some((rows) => rows.has(row.record)
      && rows.get(row.record).prediction !== row.prediction);
  }

  function search() {
    const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
    const category = categoryBox.value;
    state.found = current().rows.filter((row) => (
      (!category || `=${records[row.record].category}` === category)
      && chosen.every((name) => hasFlag(row, name))
      && wanted.every((word) => words[row.record].includes(word))
    ));
    if (orderBox.value === 'margin') state.found.sort((a, b) => a.margin - b.margin);
    if (orderBox.value === 'file') state.found.sort((a, b) => a.record - b.record);
    state.page = 0;
    showPage();
  }

  function showCounts() {
    boxes.forEach((box, n) => {
      counts[n].textContent = current().rows.filter((row) => hasFlag(row, box.value)).length;
    });
  }

  function showPage() {
    const first = state.page * PER_PAGE;
    const shown = state.found.slice(first, first + PER_PAGE);
    status.textContent = state.found.length
      ? `${first + 1}–${first + shown.length} of ${state.found.length} cases` : 'No case fits.';
    list.replaceChildren(...shown.map(caseOf));
    previous.disabled = state.page === 0;
    next.disabled = first + PER_PAGE >= state.found.length;
  }

  function tags(row) {
    return row.flags.map((name) => make('span', {
      className: name === 'low' || name === 'apart' ? 'tag' : 'tag bad', title: flags[name][1],
    }, flags[name][0]));
  }

  function caseOf(row) {
    const record = records[row.record];
    const right = row.flags.includes('wrong') ? [] : [make('span', { className: 'tag good' }, 'right')];
    const turn = record.turns && record.turns.at(-1)[2];
    const box = make('details', { className: 'case' }, make('summary', {},
      make('span', { className: 'id' }, record.id), make('span', {}, record.category || record.group),
      ...right, ...tags(row), make('span', { className: 'soft' }, `p(right) ${probability(row.right)}`),
      ...(turn ? [make('span', { className: 'first' }, turn.slice(-160))] : [])));
    box.addEventListener('toggle', () => {
      if (box.open && box.childElementCount === 1) box.append(detail(row));
    });
    return box;
  }

  function detail(row) {
    const others = (twins.get(records[row.record].pair) || []).filter((n) => (
      n !== row.record && byRecord[state.evaluation].has(n)));
    const twin = others.length === 1 ? others[0] : null;
    const pair = make('div', { className: 'pair' }, half(row, twin === null ? null : records[twin]));
    if (twin !== null) {
      pair.append(half(byRecord[state.evaluation].get(twin), records[row.record], 'Twin: '));
    }
    return pair;
  }

  function half(row, twin, prefix = '') {
    const record = records[row.record];
    const facts = [`label ${record.label || '–'}`, record.case && `case ${record.case}`,
      record.difficulty && `difficulty ${record.difficulty}`, `margin ${probability(row.margin)}`];
    const elsewhere = DATA.evaluations.flatMap(({ name }, n) => {
      const other = n === state.evaluation ? null : byRecord[n].get(row.record);
      if (!other) return [];
      const verdict = other.flags.includes('wrong') ? 'wrong' : 'right';
      return [make('p', { className: 'soft' }, `${name}: ${letter(other.prediction)}, ${verdict}`)];
    });
    return make('div', {}, make('h3', {}, prefix + record.id), make('div', { className: 'tags' }, ...tags(row)),
      make('p', { className: 'soft' }, facts.filter(Boolean).join(' · ')),
      ...(record.turns ? turns(record, twin) : []),
      make('div', { className: 'scroll' }, answers(current(), record, row, twin)), ...elsewhere);
  }

  function csvLines() {
    const header = ['id', 'case', 'pair', 'category', 'label', 'difficulty', 'answer', 'prediction',
      'p(right)', 'margin', 'flags'];
    return [header, ...state.found.map((row) => {
      const record = records[row.record];
      return [record.id, record.case, record.pair, record.category, record.label,
        record.difficulty ?? '', letter(record.answer), letter(row.prediction),
        probability(row.right), probability(row.margin), row.flags.join(' ')];
    })];
  }

  const label = (text, box) => make('label', {}, text, box);
  place.append(
    make('div', { className: 'controls' },
      ...(DATA.evaluations.length > 1 ? [label('Evaluation', evaluationBox)] : []),
      find, label('Category', categoryBox), label('Order', orderBox)),
    make('fieldset', { className: 'controls' }, make('legend', {}, 'Only'),
      ...boxes.map((box, n) => make('label', { title: flags[box.value][1] },
        box, flags[box.value][0], counts[n]))),
    status, list,
    make('div', { className: 'controls' }, previous, next, csvButton('cases', csvLines)),
  );
  for (const box of [categoryBox, orderBox, ...boxes]) box.addEventListener('change', search);
  find.addEventListener('input', search);
  evaluationBox.addEventListener('change', () => {
    state.evaluation = Number(evaluationBox.value);
    showCounts();
    search();
  });
  const turn = (by) => {
    state.page += by;
    showPage();
    place.scrollIntoView();
  };
  previous.addEventListener('click', () => turn(-1));
  next.addEventListener('click', () => turn(1));
  // Links of the page's first sentences lead to the cases of an evaluation with a flag.
  for (const link of document.querySelectorAll('a[data-flag]')) {
    link.addEventListener('click', () => {
      for (const box of boxes) box.checked = box.value === link.dataset.flag;
      state.evaluation = Number(link.dataset.evaluation);
      evaluationBox.value = state.evaluation;
      showCounts();
      search();
    });
  }
  showCounts();
  search();
}

startReader();
