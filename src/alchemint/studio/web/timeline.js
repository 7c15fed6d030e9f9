/**
 * The storyboard's timeline: who is on screen when, as bars to drag over an axis of seconds.
 *
 * It edits the very document that `alchemint generate` takes and knows nothing of the page around it: studio.js and
 * the ComfyUI node mount it alike. What the storyboard says reaches the page as text nodes and input values only.
 *
 * From top to bottom: texts and limits, times, names, the document's edits, small DOM parts, the parts of the page
 * (toolbar, ruler, lanes, rows, inspector), the editor with its gestures, `mountTimeline`.
 */

/** One colour for each subject in order, those of the contact sheet; white text is legible on all of them. */
export const COLOURS = [
  '#2F6DB5', '#D9692A', '#2E8B57', '#B03A7E', '#7A5CC0', '#B98A12', '#26919A', '#A8403F',
  '#5C8AD6', '#E39A5F', '#69A97F', '#CC7AAE', '#A38FDA', '#8C7A3A', '#5FA9AE', '#7A5A4A',
];

const EVENTS = 'events';
const MOST_UNDO_STEPS = 500;
const MOST_SUBJECTS = 16;
const MOST_EVENTS = 64;
const LONGEST_S = 3600;
const TEMPORAL_STRIDE = 4;
/** Pixels that a pointer moves before a press becomes a drag. */
const DRAG_PIXELS = 3;
/** Seconds within which a time counts as one of the grid: those written with three decimals. */
const SLACK_S = 0.0015;
const SVG = 'http://www.w3.org/2000/svg';

const TEXTS = {
  timeline: 'Storyboard timeline',
  help: 'Left and right move a bar by one step, with Shift further, with Alt finely. Tab reaches its start and end. '
    + 'Up and down change the row, Page Up and Page Down the bar. Enter sets exact times, Delete removes, '
    + 'Control D duplicates, Control Z undoes.',
  tools: 'Timeline tools',
  undo: 'Undo', redo: 'Redo', undone: 'Undone: {what}', redone: 'Redone: {what}',
  opened: 'Opened another storyboard',
  prompt: 'Prompt', promptSet: 'Changed the prompt',
  duration: 'Duration', seconds: 's',
  addSubject: 'Subject', addSubjectTitle: 'Add a subject',
  addEvent: 'Event', addEventTitle: 'Add an event: a caption of a part of the video',
  name: 'Name of subject {number}', word: 'Word of {name} in the prompt', wordLabel: 'word',
  newSubject: 'subject', newEvent: 'something happens',
  events: 'Events', eventsNone: 'Captions of parts of the video. Draw one here, or add it above.',
  subjectsNone: 'Drop pictures here, one for each subject, or add a subject.',
  move: 'Move {name}, row {number} of {count}; up and down change its place',
  addInterval: 'Add an interval for {name}', duplicateSubject: 'Duplicate {name}', removeSubject: 'Remove {name}',
  pictures: 'Pictures of {name}', addPicture: 'Add pictures of {name}',
  picture: 'Picture {number} of {count} of {name}',
  interval: '{name}, interval {number} of {count}', event: 'Event {number} of {count}',
  start: 'Start', end: 'End', text: 'Text', spanText: '{start} to {end} seconds', atText: '{at} seconds',
  lengthText: '{length} s long', duplicate: 'Duplicate', remove: 'Remove', earlier: 'Move left', later: 'Move right',
  nothing: 'Select a bar to set exact times, or draw on a lane to add one.',
  hintPicture: 'Needs a picture: drop one here.',
  hintWord: 'The prompt does not say “{word}”; name the subject by this very word.',
  hintOverlap: 'Two of its intervals overlap; they count as one.',
  hintAfter: 'An interval reaches beyond the end of the video, {end} s.',
  hintNever: 'Is never on screen; add an interval.',
  seen: 'seen', curve: 'K(t), how strongly the encoding calls the subject',
  attention: 'attention that the frames paid to its pictures', curvePeak: 'K(t)', attentionPeak: 'attention paid',
  marksText: '{name}: {parts}', seenText: 'seen {spans}', neverSeen: 'not seen',
  peakText: '{what} highest at {at} seconds',
  moved: '{name}: {start} to {end} s', added: 'Added {name} {start} to {end} s', removed: 'Removed {name}',
  duplicated: 'Duplicated {name}', renamed: 'Renamed {before} to {name}', worded: 'The word of {name} is “{word}”',
  eventWorded: 'Changed the text of an event',
  reordered: '{name} is row {number} of {count}', pictureMoved: 'Moved a picture of {name}',
  picturesAdded: 'Added {count} to {name}', subjectsAdded: 'Added {name}', onePicture: 'a picture',
  morePictures: '{count} pictures',
  samePicture: '{name} already has this picture', pictureRemoved: 'Removed a picture of {name}',
  notPicture: '“{file}” is not a picture', uploadFailed: '“{file}” was not taken: {why}',
  gone: 'Its subject was removed before “{file}” had loaded',
  durationSet: 'Duration {end} s',
  shortened: '{count} shortened', dropped: '{count} removed', pulledIn: '{count} moved to the end',
  durationMended: '{given} s would end within a latent frame of {step} s; set to {end} s',
  lastInterval: '{name} needs at least one interval; remove the subject instead',
  noRoom: 'No room for another interval of {name}; shorten one first',
  noRoomEvents: 'No room for another event; shorten one first',
  nameTaken: 'The name is taken, so it became {name}', blank: 'It must not be empty; the old text is back',
  badTime: '“{given}” is not a time; write seconds such as 1.25',
  beforeStart: 'The start {start} s is before 0 s; raise it',
  reversed: 'The end {end} s must be after the start {start} s',
  afterEnd: 'The end {end} s is after the end of the video, {last} s; shorten it or raise the duration',
  noFrame: 'No frame falls in {start} to {end} s; make it at least {least} s long',
  eventsOverlap: 'It would overlap the event {start} to {end} s, which this model does not allow',
  badDuration: '“{given}” is not a duration; write seconds above 0 and at most {most}',
};

const ICONS = {
  undo: 'M6 3 2.5 6.5 6 10M3 6.5h6.5a4 4 0 0 1 0 8H7', redo: 'M10 3l3.5 3.5L10 10M13 6.5H6.5a4 4 0 0 0 0 8H9',
  plus: 'M8 3v10M3 8h10', bar: 'M1.5 4h13v8h-13zM8 6v4M6 8h4',
  copy: 'M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z',
  remove: 'M2.5 4.5h11M6 4.5v-2h4v2M4 4.5l.7 9h6.6l.7-9M6.7 7v4M9.3 7v4', left: 'M10 3 5 8l5 5', right: 'M6 3l5 5-5 5',
  grip: 'M6 3.5v.01M10 3.5v.01M6 8v.01M10 8v.01M6 12.5v.01M10 12.5v.01', picture:
    'M2 3h12v10H2zM2 11l3.5-3.5L9 11l2-2 3 2.5M10.5 6v.01',
};

// ---- times ----

/** Return a time as people read it, with at most three decimals. */
export function timeText(seconds) {
  return String(Math.round(seconds * 1000) / 1000);
}

/** Return the seconds that a text says exactly, NaN when it is no plain number. A comma may stand for the point. */
export function parsedSeconds(text) {
  const plain = text.trim().replace(/\s*s(ec(onds?)?)?$/i, '').replace(',', '.');
  return /^[+-]?(\d+\.?\d*|\.\d+)$/.test(plain) ? Number(plain) : NaN;
}

/** Return the round seconds from 0 to the end that a ruler `width` pixels wide has room to name. */
export function niceTicks(end, width) {
  const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800];
  const step = steps.find((size) => (size / end) * width >= 68) ?? steps.at(-1);
  return Array.from({ length: Math.floor(end / step + 1e-6) + 1 }, (_, number) => Number((number * step).toFixed(6)));
}

/**
 * The times that a storyboard can have: its end, its frames, and the grid of latent frames that bars snap to.
 *
 * A time on the grid is written with three decimals, cut rather than rounded: cut, it names the same frames (a frame
 * rate divides a second by less than a thousand), while rounded up it would leave out the frame that it falls on.
 */
class Axis {
  constructor(board, host) {
    const stride = host.stride ?? TEMPORAL_STRIDE;
    const step = host.step > 0 ? host.step : 0.25;
    this.step = board.fps > 0 ? stride / board.fps : step;
    this.fps = stride / this.step;
    const given = board.duration ?? (board.num_frames > 0 ? (board.num_frames - 1) / this.fps : host.duration);
    this.end = given >= 0 ? Math.max(given, 1 / this.fps)
      : Math.max(this.step, ...intervalsOf(board).map(([, end]) => end));
  }

  /** The nearest time of the grid, or the video's end where that is nearer. */
  snapped(time) {
    const grid = Math.round(time / this.step) * this.step;
    return Math.abs(time - this.end) < Math.abs(time - grid) ? this.end : this.tidy(grid);
  }

  /** A time free of the grid, to a hundredth of a second. */
  free(time) {
    return Math.round(time * 100) / 100;
  }

  /** The time without the dust of arithmetic: one of the grid, the end, or three decimals. */
  tidy(time) {
    if (Math.abs(time - this.end) < SLACK_S) return this.end;
    const grid = Math.round(time / this.step) * this.step;
    if (Math.abs(time - grid) < SLACK_S) return Math.floor(grid * 1000 + 1e-6) / 1000;
    return Math.round(time * 1000) / 1000;
  }

  /** The time `count` steps on: from between two lines of the grid, the first step goes to the next line. */
  stepped(time, count) {
    const place = time / this.step;
    const nearest = Math.round(place);
    const from = Math.abs(place - nearest) * this.step < SLACK_S ? nearest
      : count > 0 ? Math.floor(place) : Math.ceil(place);
    const last = Math.ceil(this.end / this.step - 1e-6);
    return from + count >= last ? this.end : this.tidy(Math.max(0, from + count) * this.step);
  }

  /** Whether a frame is shown within [start, end), as timeline.py counts. */
  holdsFrame([start, end]) {
    const first = Math.max(0, Math.ceil(start * this.fps - 1e-6));
    const last = end >= this.end - 1e-9 ? Math.round(this.end * this.fps) : Math.ceil(end * this.fps - 1e-6) - 1;
    return first <= last;
  }

  /** How far along the axis a time lies, in percent. */
  percent(time) {
    return 100 * Math.min(Math.max(time / this.end, 0), 1);
  }
}

/**
 * Return the interval after `part` of it ("body", "start" or "end") was put at `time`, within [low, high].
 *
 * A body keeps its length; an end keeps `least` seconds from the other one, or what there was when that is less.
 */
function placed([start, end], part, time, axis, least, [low, high]) {
  if (part === 'start') return [clamp(time, low, Math.max(start, axis.tidy(end - least))), end];
  if (part === 'end') return [start, clamp(time, Math.min(end, axis.tidy(start + least)), high)];
  const length = Math.min(end - start, high - low);
  const first = axis.tidy(clamp(time, low, high - length));
  return [first, Math.min(high, axis.tidy(first + length))];
}

/** Return the parts of [0, end] that no interval covers. */
function gaps(intervals, end) {
  const free = [];
  let reached = 0;
  for (const [from, to] of [...intervals].sort((first, second) => first[0] - second[0])) {
    if (from > reached) free.push([reached, from]);
    reached = Math.max(reached, to);
  }
  if (reached < end) free.push([reached, end]);
  return free;
}

/** Return the lane of each interval, the first in which it overlaps none before it. */
function lanesOf(intervals) {
  const ends = [];
  const lanes = new Array(intervals.length);
  const order = intervals.map((_, number) => number).sort((one, two) => intervals[one][0] - intervals[two][0]);
  for (const number of order) {
    let lane = ends.findIndex((end) => end <= intervals[number][0]);
    if (lane < 0) lane = ends.length;
    ends[lane] = intervals[number][1];
    lanes[number] = lane;
  }
  return lanes;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// ---- names ----

/** Return the text with each {key} replaced by its value. */
function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, key) => (key in values ? String(values[key]) : whole));
}

/** Return `name`, or with a number after it the first that `taken` does not have. */
export function uniqueName(name, taken) {
  if (!taken.includes(name)) return name;
  const stem = name.replace(/ \d+$/, '');
  let number = 2;
  while (taken.includes(`${stem} ${number}`)) number += 1;
  return `${stem} ${number}`;
}

/** Tell whether the prompt has the whole phrase, whatever its case and spacing; a plural s is overlooked. */
export function saysPhrase(prompt, phrase) {
  const words = phrase.trim().split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\/-]/g, '\\$&'));
  const letter = '[\\p{L}\\p{N}_]';
  return new RegExp(`(?<!${letter})${words.join('\\s+')}(?:e?s)?(?!${letter})`, 'iu').test(prompt);
}

function nameOfFile(file, otherwise) {
  const stem = file.name.replace(/\.[^.]*$/, '').replace(/[_\s-]+/g, ' ').trim();
  return stem.slice(0, 40).trim() || otherwise;
}

// ---- the document ----

function intervalsOf(board) {
  return [...board.subjects.flatMap((subject) => subject.appears), ...board.events.map((event) => event.during)];
}

/** Return a copy of a storyboard in which every list that the timeline edits is there. */
function readBoard(storyboard) {
  const board = structuredClone(storyboard ?? {});
  board.subjects ??= [];
  board.events ??= [];
  if (!Array.isArray(board.subjects) || !Array.isArray(board.events)) {
    throw new TypeError('storyboard: subjects and events must be lists; give [] where there are none');
  }
  for (const subject of board.subjects) {
    subject.name = String(subject.name ?? '');
    subject.word = String(subject.word ?? '');
    subject.images ??= [];
    subject.appears ??= [];
  }
  if (!intervalsOf(board).every((pair) => Array.isArray(pair) && pair.length === 2 && pair.every(Number.isFinite))) {
    throw new TypeError('storyboard: every interval must be [start, end] in seconds, such as [0.5, 3.0]');
  }
  return board;
}

/**
 * Return an interval as it is in a video that ends at `end`: the same, trimmed, or null when nothing of it is left.
 */
function within([from, to], end, axis) {
  const trimmed = [from, Math.min(to, end)];
  return from < end && axis.holdsFrame(trimmed) ? trimmed : null;
}

// ---- small DOM parts ----

function el(tag, classes, attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function drawn(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function icon(name) {
  const picture = drawn('svg', { viewBox: '0 0 16 16', class: 'tl-icon', 'aria-hidden': 'true' });
  picture.append(drawn('path', { d: ICONS[name] }));
  return picture;
}

function button(classes, iconName, label, act, text = '') {
  const element = el('button', `tl-button ${classes}`, { type: 'button' }, icon(iconName));
  if (text) element.append(el('span', '', {}, text));
  named(element, label);
  element.addEventListener('click', act);
  return element;
}

function named(element, label) {
  element.setAttribute('aria-label', label);
  element.title = label;
}

/** Keep one part on the page for each item; parts stay where they are, so that focus and typed text do, too. */
function keyed(parent, make) {
  const parts = [];
  return (items) => {
    while (parts.length > items.length) parts.pop().element.remove();
    while (parts.length < items.length) {
      parts.push(make(parts.length));
      parent.append(parts.at(-1).element);
    }
    items.forEach((item, number) => parts[number].update(item));
    return parts;
  };
}

/**
 * A text field. `show` leaves what is being typed alone unless the document's own text or the thing shown changed;
 * `take` is called with the text when it was changed, `leave` on Escape.
 */
function field(classes, attributes, take, leave = () => {}) {
  const input = el(attributes.rows ? 'textarea' : 'input', classes, { autocomplete: 'off', ...attributes });
  let shown = null;
  let shownOf = null;
  const changed = () => input.value !== shown && take(input.value);
  input.addEventListener('change', changed);
  input.addEventListener('keydown', (event) => {
    event.stopPropagation();
    if (event.key === 'Enter' && !attributes.rows) {
      event.preventDefault();
      changed();
      leave(true);
    } else if (event.key === 'Escape') {
      input.value = shown;
      leave(false);
    } else if (isUndo(event) && input.value === shown) {
      input.dispatchEvent(new CustomEvent('tl-undo', { bubbles: true, detail: event }));
    }
  });
  const show = (text, of = '') => {
    if (text !== shown || of !== shownOf) input.value = text;
    shown = text;
    shownOf = of;
  };
  return { input, show, restore: () => { input.value = shown; } };
}

function isUndo(event) {
  return (event.ctrlKey || event.metaKey) && !event.altKey && ['z', 'y'].includes(event.key.toLowerCase());
}

// ---- toolbar and ruler ----

function toolbar(editor) {
  const say = editor.say;
  const undo = button('tl-undo', 'undo', say('undo'), () => editor.undo());
  const redo = button('tl-redo', 'redo', say('redo'), () => editor.redo());
  const length = field('tl-time', { inputmode: 'decimal', 'aria-label': say('duration'), size: '6' },
    (text) => editor.setDuration(text, length));
  const addSubject = button('tl-add-subject', 'plus', say('addSubjectTitle'), () => editor.addSubject(),
    say('addSubject'));
  const addEvent = button('tl-add-event', 'plus', say('addEventTitle'), () => editor.addInterval(EVENTS),
    say('addEvent'));
  const element = el('div', 'tl-tools', { role: 'toolbar', 'aria-label': say('tools') }, undo, redo,
    el('label', 'tl-duration', {}, el('span', '', {}, say('duration')), length.input,
      el('span', '', {}, say('seconds'))),
    el('span', 'tl-space'), addSubject, addEvent);
  const update = () => {
    for (const [step, steps] of [[undo, editor.past], [redo, editor.future]]) {
      // A button that is switched off would take the keyboard's focus with it.
      if (!steps.length && document.activeElement === step) editor.element.focus();
      step.disabled = !steps.length;
    }
    undo.title = editor.past.length ? `${say('undo')}: ${editor.past.at(-1).label}` : say('undo');
    redo.title = editor.future.length ? `${say('redo')}: ${editor.future.at(-1).label}` : say('redo');
    length.show(exactText(editor.axis.end));
    length.input.readOnly = editor.readonly;
    addSubject.disabled = editor.board.subjects.length >= (editor.host.maxSubjects ?? MOST_SUBJECTS);
    addEvent.disabled = editor.board.events.length >= MOST_EVENTS;
    addEvent.hidden = editor.host.takesEvents === false;
  };
  return { element, update };
}

/** The number in full, without the dust of arithmetic such as 0.1 + 0.2. */
function exactText(seconds) {
  return String(Number(seconds.toPrecision(12)));
}

function ruler(editor) {
  const scale = el('div', 'tl-ruler', { 'aria-hidden': 'true' });
  const element = el('div', 'tl-row tl-ruler-row', {}, el('div', 'tl-head'), scale);
  const ticks = keyed(scale, () => {
    const mark = el('span', 'tl-tick');
    return {
      element: mark,
      update: (time) => {
        mark.style.setProperty('--at', editor.axis.percent(time));
        mark.textContent = `${timeText(time)} ${editor.say('seconds')}`;
        mark.classList.toggle('tl-last', editor.axis.percent(time) > 96);
      },
    };
  });
  const update = () => {
    const times = niceTicks(editor.axis.end, scale.clientWidth || 600);
    ticks(times);
    const percent = editor.axis.percent(times[1] ?? editor.axis.end);
    editor.element.style.setProperty('--tl-tick', `${percent}%`);
  };
  return { element, scale, update };
}

// ---- lanes: bars and marks ----

/** A bar. Its body and its ends are sliders side by side, as screen readers don't look into a slider. */
function bar(editor, row, number) {
  const text = el('span', 'tl-bar-text');
  const parts = Object.fromEntries(['body', 'start', 'end'].map((part) => {
    const attributes = { role: 'slider', 'aria-valuemin': '0', 'aria-describedby': editor.helpId };
    const element = el('div', `tl-${part}`, attributes);
    element.dataset.part = part;
    element.addEventListener('pointerdown', (event) => editor.grab(event, row, number, part));
    element.addEventListener('focus', () => editor.select({ row, number }));
    element.addEventListener('keydown', (event) => editor.keyOnBar(event, row, number, part));
    return [part, element];
  }));
  parts.body.append(text);
  parts.body.addEventListener('dblclick', (event) => {
    event.stopPropagation();
    editor.openExact();
  });
  const element = el('div', 'tl-bar', {}, parts.body, parts.start, parts.end);
  const update = ({ interval: [start, end], caption, lane, count }) => {
    const { axis, say } = editor;
    const at = { start: timeText(start), end: timeText(end) };
    element.style.setProperty('--start', axis.percent(start));
    element.style.setProperty('--length', axis.percent(end) - axis.percent(start));
    element.style.setProperty('--lane', lane);
    element.dataset.times = `${at.start} – ${at.end} s`;
    text.textContent = caption ?? `${at.start} – ${at.end} s`;
    const label = row === EVENTS ? `${say('event', { number: number + 1, count })}: ${caption}`
      : say('interval', { name: editor.nameOf(row), number: number + 1, count });
    const told = { body: [start, say('spanText', at)], start: [start, say('atText', { at: at.start })],
      end: [end, say('atText', { at: at.end })] };
    const isSelected = editor.isSelected(row, number);
    element.classList.toggle('tl-selected', isSelected);
    element.classList.toggle('tl-active', editor.gesture?.row === row && editor.gesture.number === number
      && editor.gesture.begun === true);
    for (const [part, node] of Object.entries(parts)) {
      node.setAttribute('aria-label', part === 'body' ? label : `${label}, ${say(part).toLowerCase()}`);
      node.setAttribute('aria-valuenow', timeText(told[part][0]));
      node.setAttribute('aria-valuemax', timeText(axis.end));
      node.setAttribute('aria-valuetext', told[part][1]);
      node.setAttribute('aria-readonly', String(editor.readonly));
      node.tabIndex = editor.roving(row) === number && (part === 'body' || !editor.readonly) ? 0 : -1;
    }
  };
  return { element, parts, update };
}

function lane(editor, row) {
  const element = el('div', 'tl-lane');
  const bars = el('div', 'tl-bars');
  const marks = el('div', 'tl-marks');
  element.append(bars, marks);
  bars.addEventListener('pointerdown', (event) => event.target === bars && editor.draw(event, row));
  bars.addEventListener('dblclick', (event) => {
    if (event.target === bars) editor.addInterval(row, editor.timeAt(event.clientX));
  });
  const show = keyed(bars, (number) => bar(editor, row, number));
  let shown = [];
  const update = () => {
    const intervals = editor.intervals(row);
    const lanes = row !== EVENTS ? intervals.map(() => 0) : editor.gesture?.lanes ?? lanesOf(intervals);
    bars.style.setProperty('--lanes', Math.max(1, ...lanes.map((place) => place + 1)));
    shown = show(intervals.map((interval, number) => ({
      interval, lane: lanes[number] ?? 0, count: intervals.length,
      caption: row === EVENTS ? editor.board.events[number].text : null,
    })));
  };
  const draw = (scales) => {
    const drawing = row === EVENTS ? [] : marksOf(editor, row, scales);
    marks.replaceChildren(...drawing);
    element.classList.toggle('tl-has-marks', drawing.length > 0);
  };
  return { element, update, draw, part: (number, part) => shown[number]?.parts[part] };
}

/** Return what is drawn under a subject's bars: where it was seen, its K(t) and the attention paid to it. */
function marksOf(editor, row, scales) {
  const { axis, say } = editor;
  const name = editor.nameOf(row);
  const marks = editor.host.marks?.[name];
  if (!marks) return [];
  const parts = [];
  const drawing = [];
  if (marks.curve || marks.attention) {
    const plot = drawn('svg', { viewBox: '0 0 100 100', preserveAspectRatio: 'none', class: 'tl-plot' });
    plot.setAttribute('aria-hidden', 'true');
    const at = ({ low, high }) => ([time, value]) => [axis.percent(time), 100 - (100 * (value - low)) / (high - low)];
    if (marks.attention?.length) {
      const points = marks.attention.map(at(scales.attention));
      const base = `${points.at(-1)[0]},100 ${points[0][0]},100`;
      plot.append(drawn('polygon', { class: 'tl-attention', points: `${points.join(' ')} ${base}` }));
      plot.append(drawn('polyline', { class: 'tl-attention-line', points: points.join(' ') }));
      parts.push(say('peakText', { what: say('attentionPeak'), at: timeText(peak(marks.attention)) }));
    }
    if (marks.curve?.length) {
      plot.append(drawn('polyline', { class: 'tl-curve', points: marks.curve.map(at(scales.curve)).join(' ') }));
      parts.push(say('peakText', { what: say('curvePeak'), at: timeText(peak(marks.curve)) }));
    }
    drawing.push(plot);
  }
  if (marks.seen) {
    const line = el('div', 'tl-seen');
    for (const [start, end] of marks.seen) {
      const piece = el('span', 'tl-seen-piece');
      piece.style.setProperty('--start', axis.percent(start));
      piece.style.setProperty('--length', axis.percent(end) - axis.percent(start));
      line.append(piece);
    }
    drawing.unshift(line);
    const spans = marks.seen.map(([start, end]) => say('spanText', { start: timeText(start), end: timeText(end) }));
    parts.unshift(spans.length ? say('seenText', { spans: spans.join(', ') }) : say('neverSeen'));
  }
  drawing.push(el('span', 'tl-hidden', {}, say('marksText', { name, parts: parts.join('; ') })));
  return drawing;
}

function peak(points) {
  return points.reduce((best, point) => (point[1] > best[1] ? point : best))[0];
}

/** Return the scale that the subjects' curves of one kind share, so that they can be compared. */
function scaleOf(marks, kind) {
  const values = Object.values(marks ?? {}).flatMap((mark) => (mark?.[kind] ?? []).map(([, value]) => value));
  return { low: Math.min(0, ...values), high: Math.max(1e-9, ...values) };
}

// ---- rows ----

function pictureTile(editor, row, number) {
  const image = el('img', '', { alt: '', draggable: 'false' });
  const element = el('button', 'tl-picture', { type: 'button' }, image);
  element.addEventListener('focus', () => editor.select({ row, picture: number }));
  element.addEventListener('pointerdown', (event) => {
    editor.select({ row, picture: number });
    editor.sort(event, [...element.parentElement.querySelectorAll('.tl-picture')], number, 'x',
      (place) => editor.movePicture(row, number, place));
  });
  element.addEventListener('keydown', (event) => editor.keyOnPicture(event, row, number));
  const update = (id) => {
    const url = editor.urlOf(id);
    if (image.getAttribute('src') !== url) image.setAttribute('src', url);
    const count = editor.board.subjects[row].images.length;
    named(element, editor.say('picture', { number: number + 1, count, name: editor.nameOf(row) }));
    element.classList.toggle('tl-selected', editor.isSelected(row, undefined, number));
  };
  return { element, update };
}

function subjectRow(editor, row) {
  const say = editor.say;
  const hint = el('p', 'tl-hint', { id: `${editor.helpId}-hint-${row}` });
  const name = field('tl-name', { maxlength: '200' }, (text) => editor.rename(row, text, name));
  const word = field('tl-word', { maxlength: '200', 'aria-describedby': hint.id },
    (text) => editor.setWord(row, text, word));
  const grip = button('tl-grip', 'grip', '', () => {});
  const pictures = el('div', 'tl-pictures', { role: 'group' });
  const tiles = el('div', 'tl-tiles');
  const files = el('input', '', { type: 'file', accept: 'image/*', multiple: '', hidden: '' });
  const addPicture = button('tl-add-picture', 'picture', '', () => files.click());
  const addInterval = button('', 'bar', '', () => editor.addInterval(row));
  const duplicate = button('', 'copy', '', () => editor.duplicateSubject(row));
  const remove = button('', 'remove', '', () => editor.removeSubject(row));
  pictures.append(tiles, addPicture, files);
  const head = el('div', 'tl-head', {}, grip, name.input,
    el('label', 'tl-word-label', {}, el('span', '', {}, say('wordLabel')), word.input),
    el('div', 'tl-shelf', {}, pictures, el('div', 'tl-actions', {}, addInterval, duplicate, remove)));
  const track = lane(editor, row);
  const element = el('div', 'tl-row tl-subject', { role: 'group' }, head, track.element, hint);
  element.dataset.row = row;
  const showTiles = keyed(tiles, (number) => pictureTile(editor, row, number));
  files.addEventListener('change', () => {
    editor.takeFiles([...files.files], row);
    files.value = '';
  });
  grip.addEventListener('pointerdown', (event) => {
    editor.sort(event, editor.rows.map((part) => part.element), row, 'y', (place) => editor.moveSubject(row, place));
  });
  grip.addEventListener('keydown', (event) => {
    const change = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!change) return;
    done(event);
    editor.moveSubject(row, row + change);
  });
  const update = (subject) => {
    const label = { name: subject.name };
    const count = editor.board.subjects.length;
    element.setAttribute('aria-label', subject.name);
    element.style.setProperty('--subject', COLOURS[row % COLOURS.length]);
    name.show(subject.name);
    word.show(subject.word);
    name.input.title = subject.name;
    word.input.title = subject.word;
    name.input.setAttribute('aria-label', say('name', { number: row + 1 }));
    word.input.setAttribute('aria-label', say('word', label));
    for (const input of [name.input, word.input]) input.readOnly = editor.readonly;
    named(grip, say('move', { ...label, number: row + 1, count }));
    named(addInterval, say('addInterval', label));
    named(duplicate, say('duplicateSubject', label));
    duplicate.disabled = count >= (editor.host.maxSubjects ?? MOST_SUBJECTS);
    named(remove, say('removeSubject', label));
    pictures.setAttribute('aria-label', say('pictures', label));
    named(addPicture, say('addPicture', label));
    const isLoading = editor.uploads.some((upload) => upload.name === subject.name);
    addPicture.classList.toggle('tl-busy', isLoading);
    addPicture.setAttribute('aria-busy', String(isLoading));
    showTiles(subject.images);
    track.update();
    hint.textContent = editor.hintsOf(subject).join(' ');
    hint.hidden = !hint.textContent;
  };
  return { element, track, name: name.input, word: word.input, grip, tiles, addPicture, update };
}

function eventRow(editor) {
  const track = lane(editor, EVENTS);
  const none = el('p', 'tl-none', {}, editor.say('eventsNone'));
  track.element.prepend(none);
  const head = el('div', 'tl-head', {}, el('span', 'tl-title', {}, editor.say('events')));
  const attributes = { role: 'group', 'aria-label': editor.say('events') };
  const element = el('div', 'tl-row tl-events', attributes, head, track.element);
  const update = () => {
    const isEmpty = !editor.board.events.length;
    element.hidden = isEmpty && (editor.readonly || editor.host.takesEvents === false);
    none.hidden = !isEmpty;
    track.update();
  };
  return { element, track, update };
}

// ---- inspector: exact entry for what is selected ----

function inspector(editor) {
  const say = editor.say;
  const title = el('strong', 'tl-inspector-title');
  const fault = el('p', 'tl-fault', { id: `${editor.helpId}-fault`, role: 'alert' });
  const back = () => editor.focusSelected();
  const times = (label) => ({ 'aria-label': say(label), 'aria-describedby': fault.id, inputmode: 'decimal' });
  const markInvalid = (isInvalid) => [start.input, end.input].forEach((input) => {
    if (isInvalid) input.setAttribute('aria-invalid', 'true');
    else input.removeAttribute('aria-invalid');
  });
  const leave = (entered) => {
    if (!entered) update(true);
    if (!entered || fault.hidden) back();
  };
  const apply = () => {
    const problem = editor.setTimes(start.input.value, end.input.value);
    fault.textContent = problem ?? '';
    fault.hidden = !problem;
    markInvalid(Boolean(problem));
  };
  const start = field('tl-time tl-start-field', times('start'), apply, leave);
  const end = field('tl-time tl-end-field', times('end'), apply, leave);
  const text = field('tl-text', { maxlength: '2000' }, (value) => editor.setEventText(value, text), back);
  const length = el('span', 'tl-length');
  const labelled = (words, input, after) => el('label', 'tl-field', {}, el('span', '', {}, words), input,
    ...(after ? [el('span', '', {}, after)] : []));
  const textField = labelled(say('text'), text.input);
  const exact = el('div', 'tl-exact', {}, labelled(say('start'), start.input, say('seconds')),
    labelled(say('end'), end.input, say('seconds')), length);
  const earlier = button('', 'left', say('earlier'), () => editor.shiftPicture(-1));
  const later = button('', 'right', say('later'), () => editor.shiftPicture(1));
  const duplicate = button('', 'copy', say('duplicate'), () => editor.duplicateSelected());
  const remove = button('', 'remove', say('remove'), () => editor.removeSelected());
  const preview = el('img', 'tl-preview', { alt: '' });
  const actions = el('div', 'tl-inspector-actions', {}, earlier, later, duplicate, remove);
  const element = el('div', 'tl-inspector', {}, preview, title, textField, exact, actions, fault);
  let shownOf = null;
  const update = (anew = false) => {
    const { selection, board } = editor;
    const isPicture = selection?.picture !== undefined;
    const isBar = Boolean(selection) && !isPicture;
    const of = JSON.stringify(selection) + (anew === true ? shownOf : '');
    if (of !== shownOf) fault.hidden = true;
    shownOf = of;
    element.classList.toggle('tl-idle', !selection);
    preview.hidden = !isPicture;
    textField.hidden = !isBar || selection.row !== EVENTS;
    exact.hidden = !isBar;
    duplicate.hidden = !isBar;
    earlier.hidden = later.hidden = !isPicture;
    actions.hidden = !selection || editor.readonly;
    for (const { input } of [start, end, text]) input.readOnly = editor.readonly;
    title.textContent = editor.titleOfSelection();
    if (isPicture) {
      const images = board.subjects[selection.row].images;
      preview.setAttribute('src', editor.urlOf(images[selection.picture]));
      earlier.disabled = selection.picture === 0;
      later.disabled = selection.picture === images.length - 1;
    } else if (isBar) {
      const interval = editor.intervals(selection.row)[selection.number];
      start.show(exactText(interval[0]), of);
      end.show(exactText(interval[1]), of);
      length.textContent = say('lengthText', { length: timeText(interval[1] - interval[0]) });
      element.style.setProperty('--subject', editor.colourOf(selection.row));
      if (selection.row === EVENTS) text.show(board.events[selection.number].text, of);
    }
    if (fault.hidden) markInvalid(false);
  };
  return { element, start: start.input, text: text.input, update };
}

function legend(editor) {
  const entries = ['seen', 'attention', 'curve'].map((kind) => {
    const entry = el('span', 'tl-legend-entry', {}, el('i', `tl-legend-${kind}`), editor.say(kind));
    return { kind, entry };
  });
  const element = el('div', 'tl-legend', { 'aria-hidden': 'true' }, ...entries.map(({ entry }) => entry));
  const update = () => {
    const marks = Object.values(editor.host.marks ?? {});
    for (const { kind, entry } of entries) entry.hidden = !marks.some((mark) => mark?.[kind]);
    element.hidden = entries.every(({ entry }) => entry.hidden);
  };
  return { element, update };
}

function done(event) {
  event.preventDefault();
  event.stopPropagation();
}

let mounted = 0;

// ---- the editor: the document, its history, its gestures ----

class Editor {
  constructor(root, host) {
    this.host = host;
    this.say = (key, values = {}) => filled(host.labels?.[key] ?? TEXTS[key], values);
    this.helpId = `alchemint-timeline-${mounted += 1}`;
    this.past = [];
    this.future = [];
    this.selection = null;
    this.rovings = new Map();
    this.gesture = null;
    this.afterGesture = [];
    this.uploads = [];
    this.urls = new Map();
    this.rows = [];
    // On the document, as what a pointer drags need not have the focus.
    this.escape = (event) => {
      if (event.key !== 'Escape' || !this.gesture) return;
      done(event);
      this.cancel();
    };
    this.board = readBoard(host.storyboard);
    this.committed = this.snapshot();
    this.build(root);
    this.render();
  }

  get readonly() {
    return Boolean(this.host.readonly);
  }

  build(root) {
    this.status = el('p', 'tl-status', { role: 'status', 'aria-live': 'polite' });
    const rows = el('div', 'tl-rows');
    const attributes = { role: 'group', 'aria-label': this.say('timeline'), tabindex: '-1' };
    this.element = el('div', 'alchemint-timeline', attributes);
    this.toolbar = toolbar(this);
    this.ruler = ruler(this);
    this.events = eventRow(this);
    this.inspector = inspector(this);
    this.legend = legend(this);
    this.empty = el('p', 'tl-empty', {}, this.say('subjectsNone'));
    this.showRows = keyed(rows, (row) => subjectRow(this, row));
    const prompt = this.host.prompt ? [this.promptField()] : [];
    this.element.append(el('p', '', { id: this.helpId, hidden: '' }, this.say('help')), ...prompt, this.toolbar.element,
      el('div', 'tl-body-area', {}, this.ruler.element, rows, this.empty, this.events.element), this.legend.element,
      this.inspector.element, this.status);
    this.listen();
    root.append(this.element);
    this.resize = new ResizeObserver(() => this.ruler.update());
    this.resize.observe(this.ruler.scale);
  }

  promptField() {
    this.prompt = field('tl-prompt', { rows: '2' }, (text) => {
      this.board.prompt = text;
      this.commit(this.say('promptSet'));
    });
    return el('label', 'tl-field tl-prompt-label', {}, el('span', '', {}, this.say('prompt')), this.prompt.input);
  }

  listen() {
    const on = (type, act) => this.element.addEventListener(type, act);
    on('pointermove', (event) => this.drag(event));
    on('pointerup', (event) => this.drop(event));
    on('pointercancel', () => this.cancel());
    on('lostpointercapture', (event) => this.gesture?.pointer === event.pointerId && this.cancel());
    on('keydown', (event) => this.key(event));
    document.addEventListener('keydown', this.escape, true);
    on('keyup', () => this.gesture?.keyboard && this.drop());
    on('focusout', () => this.gesture?.keyboard && this.drop());
    on('tl-undo', (event) => this.key(event.detail));
    on('dragover', (event) => this.overFiles(event));
    on('dragleave', (event) => !this.element.contains(event.relatedTarget) && this.markDrop(null));
    on('drop', (event) => this.dropFiles(event));
    on('paste', (event) => this.pasteFiles(event));
  }

  // -- the document --

  intervals(row) {
    return row === EVENTS ? this.board.events.map((event) => event.during) : this.board.subjects[row].appears;
  }

  put(row, number, interval) {
    if (row === EVENTS) this.board.events[number].during = interval;
    else this.board.subjects[row].appears[number] = interval;
  }

  nameOf(row) {
    return row === EVENTS ? this.say('events') : this.board.subjects[row].name;
  }

  names(except = -1) {
    return this.board.subjects.filter((_, row) => row !== except).map((subject) => subject.name);
  }

  colourOf(row) {
    return row === EVENTS ? 'var(--tl-event)' : COLOURS[row % COLOURS.length];
  }

  urlOf(id) {
    return this.urls.get(id) ?? this.host.pictureUrl?.(id) ?? '';
  }

  hintsOf(subject) {
    const { say, axis } = this;
    const hints = [];
    const ordered = [...subject.appears].sort((one, two) => one[0] - two[0]);
    if (!subject.images.length) hints.push(say('hintPicture'));
    if (!ordered.length) hints.push(say('hintNever'));
    if (this.board.prompt && !saysPhrase(this.board.prompt, subject.word)) {
      hints.push(say('hintWord', { word: subject.word }));
    }
    if (lanesOf(ordered).some((place) => place > 0)) hints.push(say('hintOverlap'));
    if (ordered.some(([, end]) => end > axis.end + SLACK_S)) hints.push(say('hintAfter', { end: timeText(axis.end) }));
    return hints;
  }

  /** What undo brings back, as text: not the prompt, unless it is written here. */
  snapshot() {
    const { duration, num_frames, subjects, events } = this.board;
    const prompt = this.host.prompt ? { prompt: this.board.prompt } : {};
    return JSON.stringify({ duration, num_frames, subjects, events, ...prompt });
  }

  restore(board, state) {
    const parts = JSON.parse(state);
    for (const key of ['duration', 'num_frames', 'subjects', 'events']) {
      if (key in parts) board[key] = parts[key];
      else delete board[key];
    }
    if ('prompt' in parts) board.prompt = parts.prompt;
    return board;
  }

  get() {
    const board = structuredClone(this.board);
    return this.gesture ? this.restore(board, this.committed) : board;
  }

  set(storyboard) {
    this.cancel();
    const before = this.committed;
    const whole = JSON.stringify(this.board);
    const isBlank = !this.past.length && !this.board.subjects.length && !this.board.events.length;
    this.board = readBoard(storyboard);
    this.committed = this.snapshot();
    if (before !== this.committed && !isBlank) this.remember(before, this.say('opened'), whole);
    this.render();
  }

  /** Remember a state to go back to; `whole` is that of the whole document where another one was opened. */
  remember(state, label, whole) {
    this.past.push({ state, label, whole });
    if (this.past.length > MOST_UNDO_STEPS) this.past.shift();
    this.future = [];
  }

  /** End a gesture: one step of undo, one call of onChange, one message; nothing of them when nothing changed. */
  commit(label, told = label) {
    const before = this.committed;
    this.committed = this.snapshot();
    const isChanged = before !== this.committed;
    if (isChanged) this.remember(before, label);
    this.render();
    if (!isChanged) return;
    this.announce(told);
    this.host.onChange?.(this.get());
  }

  undo() {
    this.travel(this.past, this.future, 'undone');
  }

  redo() {
    this.travel(this.future, this.past, 'redone');
  }

  travel(from, to, word) {
    if (this.gesture) return this.cancel();
    if (!from.length || this.readonly) return undefined;
    const { state, label, whole } = from.pop();
    to.push({ state: this.committed, label, whole: whole && JSON.stringify(this.board) });
    this.committed = state;
    if (whole) this.board = JSON.parse(whole);
    else this.restore(this.board, state);
    this.render();
    this.announce(this.say(word, { what: label }));
    this.host.onChange?.(this.get());
    return undefined;
  }

  announce(text) {
    // A reader is told again what it was told just before only when the text differs.
    this.status.textContent = this.status.textContent === text ? `${text}\u00a0` : text;
  }

  // -- what is shown --

  render() {
    const hadFocus = this.element.contains(document.activeElement);
    this.axis = new Axis(this.board, this.host);
    this.keepSelection();
    this.element.classList.toggle('tl-readonly', this.readonly);
    this.prompt?.show(this.board.prompt ?? '');
    this.toolbar.update();
    this.ruler.update();
    this.rows = this.showRows(this.board.subjects);
    this.events.update();
    this.drawMarks();
    this.empty.hidden = this.board.subjects.length > 0 || this.readonly;
    this.inspector.update();
    if (hadFocus && !this.element.contains(document.activeElement)) this.focusSelected();
  }

  drawMarks() {
    const scales = { curve: scaleOf(this.host.marks, 'curve'), attention: scaleOf(this.host.marks, 'attention') };
    for (const row of this.rows) row.track.draw(scales);
    this.legend.update();
  }

  keepSelection() {
    const { selection, board } = this;
    if (!selection) return;
    const there = selection.row === EVENTS ? board.events
      : selection.picture !== undefined ? board.subjects[selection.row]?.images
        : board.subjects[selection.row]?.appears;
    const place = selection.picture ?? selection.number;
    if (!there?.length) this.selection = null;
    else if (place >= there.length) {
      const key = selection.picture === undefined ? 'number' : 'picture';
      this.selection = { row: selection.row, [key]: there.length - 1 };
    }
  }

  select(selection) {
    if (JSON.stringify(selection) === JSON.stringify(this.selection)) return;
    const before = this.selection?.row;
    this.selection = selection;
    if (selection?.number !== undefined) this.rovings.set(selection.row, selection.number);
    for (const row of new Set([before, selection?.row])) this.renderRow(row);
    this.inspector.update();
    if (!selection || selection.row === EVENTS || selection.row === before) return;
    this.host.onSelect?.(this.nameOf(selection.row));
  }

  renderRow(row) {
    if (row === EVENTS) this.events.update();
    else if (row !== undefined && this.board.subjects[row]) this.rows[row]?.update(this.board.subjects[row]);
  }

  isSelected(row, number, picture) {
    const { selection } = this;
    return selection?.row === row && selection.number === number && selection.picture === picture;
  }

  roving(row) {
    return Math.min(this.rovings.get(row) ?? 0, this.intervals(row).length - 1);
  }

  track(row) {
    return row === EVENTS ? this.events.track : this.rows[row]?.track;
  }

  titleOfSelection() {
    const { selection, say } = this;
    if (!selection) return this.readonly ? '' : say('nothing');
    const { row, number, picture } = selection;
    if (picture !== undefined) {
      const count = this.board.subjects[row].images.length;
      return say('picture', { number: picture + 1, count, name: this.nameOf(row) });
    }
    const count = this.intervals(row).length;
    return row === EVENTS ? say('event', { number: number + 1, count })
      : say('interval', { name: this.nameOf(row), number: number + 1, count });
  }

  focusBar(row, number, part = 'body') {
    this.select({ row, number });
    this.track(row)?.part(number, part)?.focus();
  }

  focusSelected() {
    const { selection } = this;
    if (selection?.picture !== undefined) this.rows[selection.row].tiles.children[selection.picture]?.focus();
    else if (selection) this.focusBar(selection.row, selection.number);
    else this.element.querySelector('.tl-body[tabindex="0"], .tl-add-subject')?.focus();
  }

  focusSubject(name) {
    const row = this.board.subjects.findIndex((subject) => subject.name === name);
    if (row < 0) return;
    this.rows[row].name.focus();
    this.rows[row].element.scrollIntoView({ block: 'nearest' });
  }

  openExact() {
    this.inspector.start.focus();
    this.inspector.start.select();
  }

  // -- intervals and events --

  /** The length of a new interval: a quarter of the video, in whole steps. */
  newLength() {
    return Math.max(1, Math.round(this.axis.end / 4 / this.axis.step)) * this.axis.step;
  }

  /** Return where an interval of `length` fits: in the gap around `near`, else in the first that is long enough. */
  spotFor(row, length, wanted, near = wanted) {
    const { axis } = this;
    const least = Math.min(axis.step, length) - SLACK_S;
    const free = gaps(this.intervals(row), axis.end).filter(([start, end]) => end - start >= least);
    const wantedGap = free.find(([start, end]) => near >= start - SLACK_S && near < end);
    const gap = wantedGap ?? free.find(([start, end]) => end - start >= length - SLACK_S)
      ?? free.sort((one, two) => two[1] - two[0] - (one[1] - one[0]))[0];
    const mayOverlap = row === EVENTS && this.mayEventsOverlap;
    if (!gap) return mayOverlap ? placed([0, length], 'body', wanted, axis, least, [0, axis.end]) : null;
    const from = wantedGap ? clamp(wanted, gap[0], Math.max(gap[0], gap[1] - length)) : gap[0];
    return [axis.tidy(from), axis.tidy(Math.min(from + length, gap[1]))];
  }

  get mayEventsOverlap() {
    return this.host.eventsMayOverlap !== false;
  }

  addInterval(row, near) {
    if (this.readonly) return;
    const length = this.newLength();
    const ends = this.intervals(row).map(([, end]) => end);
    const wanted = near === undefined ? Math.max(0, ...ends) : this.axis.snapped(Math.max(0, near - length / 2));
    this.insert(row, this.spotFor(row, length, wanted, near), this.say('newEvent'));
  }

  insert(row, interval, text) {
    const name = this.nameOf(row);
    if (!interval) return this.announce(this.say(row === EVENTS ? 'noRoomEvents' : 'noRoom', { name }));
    const number = this.push(row, interval, text);
    this.commit(this.say('added', { name, start: timeText(interval[0]), end: timeText(interval[1]) }));
    this.focusBar(row, number);
    if (row === EVENTS) {
      this.inspector.text.focus();
      this.inspector.text.select();
    }
    return undefined;
  }

  push(row, interval, text) {
    if (row === EVENTS) return this.board.events.push({ during: interval, text }) - 1;
    return this.board.subjects[row].appears.push(interval) - 1;
  }

  duplicateSelected() {
    const { row, number } = this.selection;
    const [start, end] = this.intervals(row)[number];
    this.insert(row, this.spotFor(row, end - start, end), this.board.events[number]?.text);
  }

  removeSelected() {
    const { selection } = this;
    if (this.readonly || !selection) return undefined;
    const { row, number, picture } = selection;
    if (picture !== undefined) return this.removePicture(row, picture);
    const name = this.nameOf(row);
    if (row !== EVENTS && this.intervals(row).length === 1) return this.announce(this.say('lastInterval', { name }));
    const [start, end] = this.intervals(row)[number];
    if (row === EVENTS) this.board.events.splice(number, 1);
    else this.board.subjects[row].appears.splice(number, 1);
    const what = `${name} ${timeText(start)} – ${timeText(end)} s`;
    this.commit(this.say('removed', { name: what }));
    return this.focusSelected();
  }

  /** Set the selected interval to exactly these texts; return what is wrong with them, if anything. */
  setTimes(startText, endText) {
    const { row, number } = this.selection;
    const before = this.intervals(row)[number];
    const [start, end] = [startText, endText].map((text, place) => (
      text === exactText(before[place]) ? before[place] : parsedSeconds(text)));
    const fault = this.faultOf(row, number, start, end, startText, endText);
    if (fault) return fault;
    this.put(row, number, [start, end]);
    this.commit(this.movedText(row, [start, end]));
    return null;
  }

  faultOf(row, number, start, end, startText, endText) {
    const { say, axis } = this;
    const at = { start: timeText(start), end: timeText(end) };
    for (const [time, given] of [[start, startText], [end, endText]]) {
      if (!Number.isFinite(time)) return say('badTime', { given });
    }
    if (start < 0) return say('beforeStart', at);
    if (end <= start) return say('reversed', at);
    if (end > axis.end + 1e-6) return say('afterEnd', { ...at, last: exactText(axis.end) });
    if (!axis.holdsFrame([start, end])) return say('noFrame', { ...at, least: timeText(1 / axis.fps) });
    const other = row === EVENTS && !this.mayEventsOverlap && this.intervals(row).find(([from, to], place) => (
      place !== number && start < to && from < end));
    return other ? say('eventsOverlap', { start: timeText(other[0]), end: timeText(other[1]) }) : null;
  }

  setEventText(text, input) {
    if (!text.trim()) return this.refuse(input);
    this.board.events[this.selection.number].text = text;
    return this.commit(this.say('eventWorded'));
  }

  refuse(input) {
    input.restore();
    this.announce(this.say('blank'));
  }

  /** Set the duration, which the grid of latent frames must divide, and trim what would reach beyond it. */
  setDuration(text, input) {
    const { say, axis, board } = this;
    const given = parsedSeconds(text);
    if (!(given > 0 && given <= LONGEST_S)) {
      input.restore();
      return this.announce(say('badDuration', { given: text, most: LONGEST_S }));
    }
    const count = Math.max(1, Math.round(given / axis.step));
    const fits = Math.abs(given / axis.step - count) * TEMPORAL_STRIDE <= 1e-3;
    const end = fits ? given : Number((count * axis.step).toPrecision(12));
    board.duration = end;
    delete board.num_frames;
    const told = [fits ? say('durationSet', { end: exactText(end) }) : say('durationMended',
      { given: exactText(given), step: timeText(axis.step), end: exactText(end) })];
    const changes = this.trimTo(end);
    for (const kind of ['shortened', 'pulledIn', 'dropped']) {
      if (changes[kind]) told.push(say(kind, { count: changes[kind] }));
    }
    input.show(exactText(end));
    input.restore();
    return this.commit(say('durationSet', { end: exactText(end) }), told.join('; '));
  }

  trimTo(end) {
    const axis = new Axis(this.board, this.host);
    const changes = { shortened: 0, pulledIn: 0, dropped: 0 };
    const trimmed = (items, timeOf, put) => items.flatMap((item) => {
      const interval = within(timeOf(item), end, axis);
      if (!interval) changes.dropped += 1;
      else if (interval[1] !== timeOf(item)[1]) changes.shortened += 1;
      return interval ? [put(item, interval)] : [];
    });
    for (const subject of this.board.subjects) {
      const last = subject.appears.at(-1);
      subject.appears = trimmed(subject.appears, (interval) => interval, (_, interval) => interval);
      if (subject.appears.length || !last) continue;
      // A subject keeps an interval: its last one moves to the end of the video.
      subject.appears = [[Math.max(0, axis.tidy(end - (last[1] - last[0]))), end]];
      changes.dropped -= 1;
      changes.pulledIn += 1;
    }
    this.board.events = trimmed(this.board.events, (event) => event.during, (event, during) => ({ ...event, during }));
    return changes;
  }

  // -- subjects --

  addSubject() {
    if (this.readonly) return;
    const name = uniqueName(this.say('newSubject'), this.names());
    this.board.subjects.push({ name, word: name, images: [], appears: [[0, this.axis.end]] });
    this.commit(this.say('subjectsAdded', { name }));
    this.focusText(this.rows.at(-1).word);
  }

  focusText(input) {
    input.focus();
    input.select();
  }

  duplicateSubject(row) {
    const copy = structuredClone(this.board.subjects[row]);
    const name = copy.name;
    copy.name = uniqueName(name, this.names());
    this.board.subjects.splice(row + 1, 0, copy);
    this.commit(this.say('duplicated', { name }));
    this.focusText(this.rows[row + 1].name);
  }

  removeSubject(row) {
    const [{ name }] = this.board.subjects.splice(row, 1);
    this.selection = null;
    this.commit(this.say('removed', { name }));
    const next = this.rows[Math.min(row, this.rows.length - 1)];
    if (next) next.name.focus();
    else this.element.querySelector('.tl-add-subject').focus();
  }

  moveSubject(row, place) {
    const { subjects } = this.board;
    if (place === row || place < 0 || place >= subjects.length) return;
    const [subject] = subjects.splice(row, 1);
    subjects.splice(place, 0, subject);
    this.selection = null;
    this.commit(this.say('reordered', { name: subject.name, number: place + 1, count: subjects.length }));
    this.rows[place].grip.focus();
  }

  rename(row, text, input) {
    const wanted = text.trim();
    if (!wanted) return this.refuse(input);
    const before = this.nameOf(row);
    this.setName(row, uniqueName(wanted, this.names(row)));
    const name = this.nameOf(row);
    input.show(name);
    input.restore();
    const label = this.say('renamed', { before, name });
    return this.commit(label, name === wanted ? label : this.say('nameTaken', { name }));
  }

  setName(row, name) {
    for (const upload of this.uploads) if (upload.name === this.nameOf(row)) upload.name = name;
    this.board.subjects[row].name = name;
  }

  /** Set the word; a name that was the word so far follows it. */
  setWord(row, text, input) {
    const word = text.trim();
    if (!word) return this.refuse(input);
    const subject = this.board.subjects[row];
    const isNamedByIt = subject.name === subject.word;
    subject.word = word;
    if (isNamedByIt) this.setName(row, uniqueName(word, this.names(row)));
    input.show(word);
    input.restore();
    return this.commit(this.say('worded', { name: subject.name, word }));
  }

  // -- pictures --

  movePicture(row, number, place) {
    const { images } = this.board.subjects[row];
    if (place === number || place < 0 || place >= images.length) return;
    images.splice(place, 0, ...images.splice(number, 1));
    this.selection = { row, picture: place };
    this.commit(this.say('pictureMoved', { name: this.nameOf(row) }));
    this.rows[row].tiles.children[place].focus();
  }

  shiftPicture(change) {
    this.movePicture(this.selection.row, this.selection.picture, this.selection.picture + change);
  }

  removePicture(row, number) {
    const { images } = this.board.subjects[row];
    images.splice(number, 1);
    this.commit(this.say('pictureRemoved', { name: this.nameOf(row) }));
    const tile = this.rows[row].tiles.children[Math.min(number, images.length - 1)];
    (tile ?? this.rows[row].addPicture).focus();
  }

  /** Upload files and add them to the subject of a row, or, without one, make a subject of each. */
  async takeFiles(files, row = null) {
    if (this.readonly) return;
    const upload = { name: row === null ? null : this.nameOf(row) };
    const taken = [];
    this.uploads.push(upload);
    this.render();
    for (const file of files) {
      if (!file.type.startsWith('image/')) {
        this.announce(this.say('notPicture', { file: file.name }));
        continue;
      }
      try {
        const { id, url } = await this.host.upload(file);
        if (url) this.urls.set(id, url);
        taken.push({ id, file });
      } catch (error) {
        this.announce(this.say('uploadFailed', { file: file.name, why: error?.message ?? String(error) }));
      }
    }
    this.uploads.splice(this.uploads.indexOf(upload), 1);
    this.onceStill(() => {
      if (!taken.length) this.render();
      else if (row === null) this.addSubjects(taken);
      else this.addPictures(taken, upload.name);
    });
  }

  /** Act now, or when the gesture under way has ended. */
  onceStill(act) {
    if (this.gesture) this.afterGesture.push(act);
    else act();
  }

  addPictures(taken, name) {
    const subject = this.board.subjects.find((candidate) => candidate.name === name);
    if (!subject) return this.announce(this.say('gone', { file: taken[0].file.name }));
    const fresh = [...new Set(taken.map(({ id }) => id))].filter((id) => !subject.images.includes(id));
    subject.images.push(...fresh);
    const count = fresh.length > 1 ? this.say('morePictures', { count: fresh.length }) : this.say('onePicture');
    this.commit(this.say('picturesAdded', { count, name }));
    return fresh.length ? undefined : this.announce(this.say('samePicture', { name }));
  }

  addSubjects(taken) {
    const room = (this.host.maxSubjects ?? MOST_SUBJECTS) - this.board.subjects.length;
    const made = taken.slice(0, Math.max(0, room)).map(({ id, file }) => {
      const word = nameOfFile(file, this.say('newSubject'));
      const name = uniqueName(word, this.names());
      this.board.subjects.push({ name, word, images: [id], appears: [[0, this.axis.end]] });
      return name;
    });
    this.commit(this.say('subjectsAdded', { name: made.join(', ') }));
  }

  rowUnder(target) {
    const row = target.closest?.('.tl-subject')?.dataset.row;
    return row === undefined ? null : Number(row);
  }

  overFiles(event) {
    if (this.readonly || !event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = 'copy';
    this.markDrop(this.rowUnder(event.target) ?? 'new');
  }

  markDrop(place) {
    this.rows.forEach((row, number) => row.element.classList.toggle('tl-drop', number === place));
    this.element.classList.toggle('tl-drop-new', place === 'new');
  }

  dropFiles(event) {
    if (this.readonly || !event.dataTransfer?.files.length) return;
    done(event);
    this.markDrop(null);
    this.takeFiles([...event.dataTransfer.files], this.rowUnder(event.target));
  }

  pasteFiles(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || this.readonly) return;
    done(event);
    const selected = this.selection?.row;
    this.takeFiles(files, this.rowUnder(event.target) ?? (typeof selected === 'number' ? selected : null));
  }

  // -- gestures: pointer --

  timeAt(x) {
    const box = this.ruler.scale.getBoundingClientRect();
    return ((x - box.left) / box.width) * this.axis.end;
  }

  movedText(row, [start, end]) {
    return this.say('moved', { name: this.nameOf(row), start: timeText(start), end: timeText(end) });
  }

  grab(event, row, number, part) {
    if (event.button || !this.isFree()) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    this.select({ row, number });
    if (this.readonly) return;
    const before = this.intervals(row)[number];
    this.gesture = { pointer: event.pointerId, row, number, part, before, x: event.clientX,
      from: before[part === 'end' ? 1 : 0],
      limits: this.limitsOf(row, number), lanes: row === EVENTS ? lanesOf(this.intervals(row)) : null };
  }

  /** Draw a new interval on an empty place of a lane; touch scrolls there, so it is for mouse and pen. */
  draw(event, row) {
    if (event.button || event.pointerType === 'touch' || this.readonly || !this.isFree()) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    this.gesture = { pointer: event.pointerId, row, part: 'draw', x: event.clientX, from: this.timeAt(event.clientX) };
  }

  isFree() {
    if (this.gesture?.keyboard) this.drop();
    return !this.gesture;
  }

  /** The times within which an interval can be put: between its neighbours for events that may not overlap. */
  limitsOf(row, number) {
    const { axis } = this;
    if (row !== EVENTS || this.mayEventsOverlap) return [0, axis.end];
    const others = this.intervals(row).filter((_, place) => place !== number);
    const [start, end] = this.intervals(row)[number];
    return [Math.max(0, ...others.map((other) => other[1]).filter((time) => time <= start)),
      Math.min(axis.end, ...others.map((other) => other[0]).filter((time) => time >= end))];
  }

  drag(event) {
    const { gesture, axis } = this;
    if (!gesture || gesture.pointer !== event.pointerId) return;
    if (gesture.move) return void gesture.move(event);
    const distance = event.clientX - gesture.x;
    if (!gesture.begun && Math.abs(distance) < DRAG_PIXELS) return;
    const at = (time) => (event.altKey ? axis.free(time) : axis.snapped(time));
    if (gesture.part === 'draw') this.beginDrawn(gesture, at, distance);
    if (!this.gesture) return;
    gesture.begun = true;
    const { row, number, part, before, from } = gesture;
    const least = event.altKey ? 1 / axis.fps : axis.step;
    const time = at(from + (distance / this.ruler.scale.getBoundingClientRect().width) * axis.end);
    this.put(row, number, placed(before, part, time, axis, least, gesture.limits));
    this.renderRow(row);
    this.inspector.update();
  }

  beginDrawn(gesture, at, distance) {
    const { axis } = this;
    const start = clamp(at(gesture.from), 0, axis.end - axis.step);
    const before = distance > 0 ? [start, axis.tidy(start + axis.step)]
      : [axis.tidy(Math.max(0, start - axis.step)), Math.max(start, axis.tidy(axis.step))];
    const taken = gesture.row === EVENTS && !this.mayEventsOverlap
      && this.intervals(EVENTS).some(([from, to]) => before[0] < to && from < before[1]);
    if (taken || (gesture.row === EVENTS && this.board.events.length >= MOST_EVENTS)) return void this.cancel();
    const number = this.push(gesture.row, before, this.say('newEvent'));
    Object.assign(gesture, { number, before, part: distance > 0 ? 'end' : 'start', drawn: true,
      limits: this.limitsOf(gesture.row, number) });
    this.select({ row: gesture.row, number });
  }

  drop(event) {
    const { gesture } = this;
    if (!gesture || (event && gesture.pointer !== event.pointerId)) return;
    this.gesture = null;
    if (gesture.finish) gesture.finish();
    else if (gesture.begun) {
      this.commit(this.movedText(gesture.row, this.intervals(gesture.row)[gesture.number]));
      if (gesture.drawn) this.focusBar(gesture.row, gesture.number);
      if (gesture.drawn && gesture.row === EVENTS) this.focusText(this.inspector.text);
    } else if (gesture.part !== 'draw') {
      // On a phone the inspector lies over the bottom of the page, and might over the bar that was tapped.
      this.track(gesture.row).part(gesture.number, 'body').scrollIntoView({ block: 'nearest' });
    }
    this.settle();
  }

  /** End a gesture as if it had never begun. */
  cancel() {
    const { gesture } = this;
    if (!gesture) return;
    this.gesture = null;
    gesture.finish?.(true);
    this.restore(this.board, this.committed);
    this.render();
    this.settle();
  }

  settle() {
    for (const act of this.afterGesture.splice(0)) act();
  }

  /** Drag one of `elements`, which lie along an axis, to another place among them. */
  sort(event, elements, from, along, move) {
    if (event.button || this.readonly || elements.length < 2 || !this.isFree()) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    const [low, size, at] = along === 'x' ? ['left', 'width', 'clientX'] : ['top', 'height', 'clientY'];
    const began = event[at];
    let place = from;
    const mark = (moved) => elements.forEach((element, number) => {
      element.classList.toggle('tl-lifted', moved && number === from);
      element.classList.toggle('tl-before', moved && number === place && place < from);
      element.classList.toggle('tl-after', moved && number === place && place > from);
    });
    this.gesture = {
      pointer: event.pointerId,
      move: (moved) => {
        if (Math.abs(moved[at] - began) < 2 * DRAG_PIXELS && place === from) return;
        const boxes = elements.map((element) => element.getBoundingClientRect());
        const passed = boxes.filter((box, number) => number !== from && moved[at] > box[low] + box[size] / 2);
        place = passed.length;
        mark(true);
      },
      finish: (cancelled = false) => {
        mark(false);
        if (!cancelled) move(place);
      },
    };
  }

  // -- gestures: keyboard --

  key(event) {
    if (!isUndo(event)) return;
    done(event);
    const isRedo = event.shiftKey || event.key.toLowerCase() === 'y';
    if (this.gesture?.keyboard) this.drop();
    if (isRedo) this.redo();
    else this.undo();
  }

  keyOnBar(event, row, number, part) {
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key.toLowerCase() === 'd' && !this.readonly) this.duplicateSelected();
    else if (command) return;
    else if (event.key === 'Enter' || event.key === 'F2') this.openExact();
    else if (event.key === 'Delete' || event.key === 'Backspace') this.removeSelected();
    else if (event.key === 'PageUp') this.focusNeighbour(row, number, -1);
    else if (event.key === 'PageDown') this.focusNeighbour(row, number, 1);
    else if (part === 'body' && (event.key === 'ArrowUp' || event.key === 'ArrowDown')) {
      this.focusOtherRow(row, number, event.key === 'ArrowUp' ? -1 : 1);
    } else if (!this.nudge(event, row, number, part)) return;
    done(event);
  }

  focusNeighbour(row, number, change) {
    const order = this.intervals(row).map((interval, place) => ({ interval, place }))
      .sort((one, two) => one.interval[0] - two.interval[0]);
    const next = order[order.findIndex(({ place }) => place === number) + change];
    if (next) this.focusBar(row, next.place);
  }

  /** Focus the bar of the row above or below that lies nearest in time. */
  focusOtherRow(row, number, change) {
    const order = [...this.board.subjects.keys(), EVENTS].filter((other) => this.intervals(other).length);
    const other = order[order.indexOf(row) + change];
    if (other === undefined) return;
    const middle = ([start, end]) => (start + end) / 2;
    const wanted = middle(this.intervals(row)[number]);
    const distances = this.intervals(other).map((interval) => Math.abs(middle(interval) - wanted));
    this.focusBar(other, distances.indexOf(Math.min(...distances)));
  }

  /** Move a bar or an end of it by a key. A key held down is one gesture, which its release ends. */
  nudge(event, row, number, part) {
    const { axis } = this;
    const far = Math.max(2, Math.round(1 / axis.step));
    const count = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1 }[event.key];
    const isLimit = event.key === 'Home' || event.key === 'End';
    if (this.readonly || (!count && !isLimit)) return false;
    if (this.gesture && !this.gesture.keyboard) return true;
    const interval = this.intervals(row)[number];
    const from = interval[part === 'end' ? 1 : 0];
    const lanes = row === EVENTS ? lanesOf(this.intervals(row)) : null;
    this.gesture ??= { keyboard: true, row, number, begun: true, lanes };
    const time = isLimit ? (event.key === 'Home' ? 0 : axis.end)
      : event.altKey ? axis.free(from + count * 0.01) : axis.stepped(from, count * (event.shiftKey ? far : 1));
    const least = event.altKey ? 1 / axis.fps : axis.step;
    this.put(row, number, placed(interval, part, time, axis, least, this.limitsOf(row, number)));
    this.renderRow(row);
    this.inspector.update();
    return true;
  }

  keyOnPicture(event, row, number) {
    const change = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === 'Delete' || event.key === 'Backspace') {
      if (!this.readonly) this.removePicture(row, number);
    } else if (!change) return;
    else if (event.shiftKey && !this.readonly) this.movePicture(row, number, number + change);
    else this.rows[row].tiles.children[number + change]?.focus();
    done(event);
  }

  destroy() {
    this.cancel();
    this.resize.disconnect();
    document.removeEventListener('keydown', this.escape, true);
    this.element.remove();
  }
}

/**
 * Put a timeline editor into `root`.
 *
 * @param {HTMLElement} root what it is appended to; timeline.css must be on the page
 * @param {object} host what the page gives it
 * @param {object} host.storyboard the storyboard document; it is copied, and keys that are not known are kept
 * @param {number} host.step seconds of one latent frame, to which bars snap (Alt: free)
 * @param {number} [host.duration] seconds of the model's own video, for storyboards that do not say
 * @param {boolean} [host.readonly] shows only
 * @param {boolean} [host.prompt] shows a field for the prompt, too
 * @param {boolean} [host.eventsMayOverlap] false where the model's events may not; true when left out
 * @param {boolean} [host.takesEvents] false where the model takes none
 * @param {number} [host.maxSubjects] 16 when left out
 * @param {(id: string) => string} host.pictureUrl the address of a picture that the storyboard names
 * @param {(file: File) => Promise<{id: string, url?: string}>} host.upload takes a picture; why it refuses is shown
 * @param {(storyboard: object) => void} [host.onChange] called once a gesture, with a copy of the document
 * @param {(name: string) => void} [host.onSelect] called when another subject is selected
 * @param {object} [host.marks] by subject name: {seen: [[s, e]], curve: [[s, value]], attention: [[s, value]]}
 * @param {object} [host.labels] texts by the keys of TEXTS, for other languages
 * @returns {{get: () => object, set: (storyboard: object) => void, undo: () => void, redo: () => void,
 *   focusSubject: (name: string) => void, addFiles: (files: File[], name?: string) => Promise<void>,
 *   refresh: () => void, destroy: () => void}} `set` calls no onChange; it is a step of undo where it changes what the
 *   timeline edits, so that one can leave another storyboard again. `refresh` draws anew after the host's marks, step
 *   or readonly changed. `addFiles` uploads pictures for the subject, or makes a subject of each.
 */
export function mountTimeline(root, host) {
  const editor = new Editor(root, host);
  return {
    get: () => editor.get(),
    set: (storyboard) => editor.set(storyboard),
    undo: () => editor.undo(),
    redo: () => editor.redo(),
    focusSubject: (name) => editor.focusSubject(name),
    addFiles: (files, name) => {
      const row = editor.names().indexOf(name);
      return editor.takeFiles([...files], row < 0 ? null : row);
    },
    refresh: () => editor.onceStill(() => editor.render()),
    destroy: () => editor.destroy(),
  };
}
