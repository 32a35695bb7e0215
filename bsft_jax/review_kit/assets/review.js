'use strict';
(() => {
  const study = JSON.parse(document.getElementById('study').textContent);
  const storageKey = `blind-review:${study.study}:${study.rater}`;
  // Longer pauses count as this long, in milliseconds.
  const LONGEST_PAUSE = 120000;
  const INTRO = -1;
  const END = study.screens.length;
  const header = document.querySelector('header');
  const main = document.querySelector('main');

  let ratings = new Map(study.screens.map((screen) => [screen.id, emptyRating()]));
  let position = INTRO;
  let warnedAt = null;
  let lastSign = performance.now();
  let storageWorks = true;

  function emptyRating() {
    return { answers: [{}, {}], preference: null, comment: '', milliseconds: 0 };
  }

  // Everything that is shown becomes a text node: nothing in a record is read as HTML.
  function make(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
      else if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // ----- what is kept

  function toFile() {
    const file = {
      format: study.format,
      kind: 'blind review',
      study: study.study,
      rater: study.rater,
      page: study.page,
      complete: openScreens().length === 0,
      ratings: study.screens.map(({ id }) => {
        const rating = ratings.get(id);
        return {
          screen: id,
          answers: rating.answers.map((answer) => Object.fromEntries(
            study.scales.map(({ name }) => [name, name in answer ? answer[name] : null]))),
          preference: rating.preference,
          comment: rating.comment,
          seconds: Math.round(rating.milliseconds / 1000),
        };
      }),
    };
    file.checksum = crc32(JSON.stringify(file));
    return file;
  }

  // Takes the ratings of a file, unless it is not of this page or would undo work; says which.
  function fromFile(file) {
    const foreign = 'This is not a file of this study and reviewer; nothing was changed.';
    if (!file || file.study !== study.study || file.rater !== study.rater ||
        file.page !== study.page || !Array.isArray(file.ratings)) return foreign;
    const read = new Map(study.screens.map((screen) => [screen.id, emptyRating()]));
    for (const entry of file.ratings) {
      const rating = read.get(entry.screen);
      if (!rating) return foreign;
      entry.answers.forEach((answer, number) => {
        for (const { name } of study.scales) {
          if (answer[name] !== null) rating.answers[number][name] = answer[name];
        }
      });
      rating.preference = entry.preference;
      rating.comment = entry.comment;
      rating.milliseconds = entry.seconds * 1000;
    }
    const [kept, open] = [ratings, openScreens().length];
    ratings = read;
    if (openScreens().length <= open) return '';
    ratings = kept;
    return 'Fewer pages are filled in there than in this browser; nothing was changed.';
  }

  function save() {
    try {
      localStorage.setItem(storageKey, JSON.stringify({ position, ratings: [...ratings] }));
      storageWorks = true;
    } catch {
      storageWorks = false;
    }
  }

  function restore() {
    try {
      const kept = JSON.parse(localStorage.getItem(storageKey));
      if (!kept) return;
      for (const [id, rating] of kept.ratings) if (ratings.has(id)) ratings.set(id, rating);
      position = kept.position;
    } catch {
      storageWorks = false;
    }
  }

  function crc32(text) {
    let crc = -1;
    for (const byte of new TextEncoder().encode(text)) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
    }
    return ((crc ^ -1) >>> 0).toString(16).padStart(8, '0');
  }

  // Names what is not answered on a screen.
  function openQuestions(screen) {
    const rating = ratings.get(screen.id);
    const open = rating.answers.flatMap((answer, number) => study.scales
      .filter(({ name }) => !(name in answer))
      .map(({ title }) => `${title} of answer ${number + 1}`));
    return rating.preference ? open : [...open, 'Preference'];
  }

  function openScreens() {
    return study.screens.filter((screen) => openQuestions(screen).length);
  }

  // Adds the time since the last sign of life to the screen that is shown.
  function countTime() {
    const now = performance.now();
    if (position > INTRO && position < END && !document.hidden) {
      const rating = ratings.get(study.screens[position].id);
      rating.milliseconds += Math.round(Math.min(now - lastSign, LONGEST_PAUSE));
    }
    lastSign = now;
  }

  // ----- what is shown

  function storageWarning() {
    return storageWorks ? '' : make('p', { className: 'warning' },
      'This browser keeps nothing for this file: download a copy on the last page before you ' +
      'close it, and load it here again.');
  }

  function scaleMeaning({ title, question, anchors, not_applicable: none }, heading) {
    const list = make('dl', { className: 'scale' });
    anchors.forEach((anchor, n) => list.append(make('dt', {}, `${n + 1}`), make('dd', {}, anchor)));
    if (none) list.append(make('dt', {}, 'n/a'), make('dd', {}, none));
    return make('div', {}, make(heading, {}, title), make('p', {}, question), list);
  }

  function allScales(heading) {
    return make('div', { className: 'scales' },
      ...study.scales.map((scale) => scaleMeaning(scale, heading)));
  }

  function intro() {
    const message = make('p', { role: 'status' });
    const begun = [...ratings.values()].some((rating) => rating.milliseconds > 0);
    const load = async (event) => {
      let problem = 'This is not a file of a review; nothing was changed.';
      try {
        problem = fromFile(JSON.parse(await event.target.files[0].text()));
      } catch { /* Not JSON, or another layout. */ }
      save();
      message.className = problem ? 'warning' : '';
      message.textContent =
        problem || `Loaded. ${openScreens().length} of ${END} pages are still open.`;
    };
    return [
      make('h1', {}, study.title),
      make('p', { className: 'soft' }, `Reviewer ${study.rater} · ${END} pages`),
      storageWarning(),
      ...study.instructions.map((text) => make('p', {}, text)),
      make('p', { className: 'soft' }, study.keys),
      make('div', { className: 'buttons' },
        make('button', { type: 'button', className: 'main', onclick: () => go(firstOpen()) },
          begun ? 'Continue' : 'Start'),
        make('label', { className: 'file' },
          make('input', { type: 'file', accept: '.json', onchange: load }),
          make('span', {}, 'Load a downloaded file'))),
      message,
      make('h2', {}, 'The scales'),
      allScales('h3'),
    ];
  }

  function firstOpen() {
    const open = openScreens()[0];
    return open ? study.screens.indexOf(open) : END;
  }

  // Returns a question with one choice. An option is {value, label, meaning, keys}.
  function choice({ title, question, options, chosen, hint, name, onchoose }) {
    const meaning = make('p', { className: 'meaning', 'aria-hidden': 'true' });
    const inputs = options.map((option) => make('input', {
      type: 'radio', name, checked: option.value === chosen,
      'aria-label': option.meaning ? `${option.label}: ${option.meaning}` : option.label,
    }));
    const show = () => {
      const option = options[inputs.findIndex((input) => input.checked)];
      meaning.textContent = option ? option.meaning : hint;
    };
    inputs.forEach((input, n) => input.addEventListener('change', () => {
      onchoose(options[n].value);
      show();
    }));
    const group = make('fieldset', {
      onkeydown: (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const n = options.findIndex(({ keys }) => keys.includes(event.key.toLowerCase()));
        if (n < 0) return;
        event.preventDefault();
        inputs[n].checked = true;
        inputs[n].dispatchEvent(new Event('change', { bubbles: true }));
        focusAfter(group);
      },
    },
    make('legend', {}, make('b', {}, title), make('span', {}, question)),
    make('div', { className: 'choices' }, ...options.map((option, n) => {
      const label = make('label', { className: 'choice' }, inputs[n], make('span', {}, option.label));
      label.addEventListener('pointerenter', () => { meaning.textContent = option.meaning; });
      label.addEventListener('pointerleave', show);
      return label;
    })), meaning);
    show();
    return group;
  }

  function focusAfter(group) {
    const groups = [...main.querySelectorAll('fieldset')];
    const next = groups[groups.indexOf(group) + 1];
    const target = next
      ? next.querySelector('input:checked') || next.querySelector('input')
      : main.querySelector('textarea');
    target.focus();
  }

  function scaleChoice(screen, rating, number, scale) {
    const options = scale.anchors.map((meaning, n) => (
      { value: n + 1, label: `${n + 1}`, meaning, keys: [`${n + 1}`] }));
    if (scale.not_applicable) {
      options.push({ value: 'na', label: 'n/a', meaning: scale.not_applicable, keys: ['0'] });
    }
    const last = scale.anchors.length;
    return choice({
      title: scale.title, question: scale.question, options,
      chosen: rating.answers[number][scale.name],
      hint: `1: ${scale.anchors[0]} · ${last}: ${scale.anchors[last - 1]}`,
      name: `${screen.id}-${number}-${scale.name}`,
      onchoose: (value) => { rating.answers[number][scale.name] = value; changed(); },
    });
  }

  function item(screen) {
    const rating = ratings.get(screen.id);
    const answers = screen.answers.map((text, number) => make('section', { className: 'answer' },
      make('h2', {}, `Answer ${number + 1}`),
      make('p', { className: 'text' }, text || '(an empty answer)'),
      ...study.scales.map((scale) => scaleChoice(screen, rating, number, scale))));
    const keys = { first: ['1'], second: ['2'], tie: ['3', 't'], neither: ['4', 'n'] };
    const preference = choice({
      title: 'Preference', question: 'Which would you rather have in front of you?',
      options: Object.entries(study.preferences).map(([value, label]) => (
        { value, label, meaning: '', keys: keys[value] })),
      chosen: rating.preference, hint: '', name: `${screen.id}-preference`,
      onchoose: (value) => { rating.preference = value; changed(); },
    });
    const comment = make('textarea', {
      id: 'comment', value: rating.comment,
      oninput: (event) => { rating.comment = event.target.value; changed(); },
    });
    return [
      storageWarning(),
      make('section', { className: 'case' }, make('h1', {}, 'Case'),
        ...screen.turns.map(({ speaker, text }) => (
          make('div', { className: 'turn' }, make('b', {}, speaker), text)))),
      make('details', {}, make('summary', {}, 'What the numbers mean'), allScales('h2')),
      make('div', { className: 'answers' }, ...answers),
      make('section', { className: 'answer verdict' }, preference,
        make('label', { className: 'comment', htmlFor: 'comment' }, 'Comment (optional)'), comment),
      make('p', { className: 'open-questions', role: 'status' }),
      make('div', { className: 'buttons' },
        make('button', { type: 'button', onclick: () => go(position - 1) }, 'Back'),
        make('button', { type: 'button', className: 'main', onclick: next }, 'Next')),
    ];
  }

  function end() {
    const open = openScreens();
    const pages = open.map((screen) => {
      const index = study.screens.indexOf(screen);
      return make('button', { type: 'button', onclick: () => go(index) }, `Page ${index + 1}`);
    });
    return [
      make('h1', {}, open.length ? 'Some pages are still open' : 'All pages are filled in'),
      ...(open.length ? [
        make('p', {}, 'The study needs the complete file. You may download what there is, to go on ' +
          'in another browser.'),
        make('div', { className: 'open' }, ...pages),
      ] : [
        make('p', {}, 'Please download the file and return it to whoever gave you this form. ' +
          'Do not change it. Thank you.'),
      ]),
      make('div', { className: 'buttons' },
        make('button', { type: 'button', onclick: () => go(END - 1) }, 'Back'),
        make('button', { type: 'button', className: open.length ? '' : 'main', onclick: download },
          open.length ? 'Download what there is' : 'Download the file')),
    ];
  }

  function download() {
    const file = toFile();
    const blob = new Blob([JSON.stringify(file, null, 1)], { type: 'application/json' });
    const address = URL.createObjectURL(blob);
    const state = file.complete ? '' : '-incomplete';
    make('a', { href: address, download: `rater-${study.rater}${state}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  // ----- moving about

  function changed() {
    countTime();
    save();
  }

  function next() {
    const open = openQuestions(study.screens[position]);
    if (!open.length || warnedAt === position) return go(position + 1);
    warnedAt = position;
    const line = main.querySelector('.open-questions');
    line.className = 'open-questions warning';
    line.textContent = `Still open: ${open.join(', ')}. Next leaves them for later.`;
  }

  function go(where) {
    countTime();
    position = Math.max(INTRO, Math.min(END, where));
    warnedAt = null;
    save();
    show();
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }

  function show() {
    const isItem = position > INTRO && position < END;
    const content = position === INTRO ? intro() : isItem ? item(study.screens[position]) : end();
    main.replaceChildren(...content.filter((part) => part !== ''));
    header.hidden = position === INTRO;
    header.querySelector('strong').textContent = study.title;
    const place = isItem ? `Page ${position + 1} of ${END}` : '';
    header.querySelector('span').textContent = place;
    const bar = header.querySelector('progress');
    Object.assign(bar, { max: END, value: END - openScreens().length });
    bar.setAttribute('aria-label', 'Pages filled in');
    document.title = place ? `${place} · ${study.title}` : study.title;
  }

  addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || !event.ctrlKey) return;
    if (position > INTRO && position < END) next();
  });
  for (const sign of ['keydown', 'pointerdown', 'scroll']) {
    addEventListener(sign, countTime, { passive: true });
  }
  document.addEventListener('visibilitychange', () => {
    // What passed while the page was hidden counts for nothing.
    if (document.hidden) save();
    else lastSign = performance.now();
  });
  addEventListener('pagehide', () => { countTime(); save(); });

  restore();
  show();
})();
