/** The storyboard that is being written: fields, timeline and options around one document. */

import * as api from './api.js';
import {latentSecond, timesOf} from './axis.js';
import {readDraft, writeDraft} from './drafts.js';
import {make} from './element.js';
import {showFaults} from './faults.js';
import {mountTimeline} from './timeline.js';

const CHECK_DELAY_MS = 350;
/** Steps from one preview to the next, however many there are. */
const MOST_PREVIEW_STEPS = 10;
const MOST_SEED = Number.MAX_SAFE_INTEGER;

const $ = id => document.getElementById(id);

/**
 * Manage the form.
 * @param {Object} model what GET /model answers
 * @param {{onFault: (error: Error) => void, announce: (text: string) => void}} host
 * @returns {{get: () => {storyboard: Object, options: Object}, open: (storyboard: Object, told: string) => void,
 *   restore: () => boolean, clear: () => void, addPictures: (files: File[]) => Promise<void>,
 *   showFaults: (faults: string[]) => void}}
 */
export function mountComposer(model, host) {
  let board = emptyBoard(model);
  let random = true;
  let tried = false;
  let waiting = 0;
  let asking = null;
  const timelineHost = {
    storyboard: board,
    step: model.latent_step_s,
    duration: model.duration,
    maxSubjects: model.max_subjects,
    takesEvents: model.takes_events,
    eventsMayOverlap: model.events_may_overlap,
    readonly: false,
    marks: {},
    pictureUrl: api.pictureUrl,
    upload: file => api.upload(file).catch(error => {
      host.onFault(error);
      throw error;
    }),
    onChange(storyboard) {
      board = storyboard;
      showFields();
      changed();
    },
  };
  const timeline = mountTimeline($('timeline'), timelineHost);
  $('steps').value = model.steps_default;
  $('steps').max = model.max_steps;
  $('variations').max = model.max_variations;

  for (const [id, key] of [['prompt', 'prompt'], ['negative-prompt', 'negative_prompt']]) {
    $(id).addEventListener('input', () => edit({[key]: $(id).value || (key === 'prompt' ? '' : undefined)}));
  }
  $('seed').addEventListener('input', () => {
    random = $('seed').value === '';
    edit({seed: numberIn('seed') ?? undefined});
    showSeed();
  });
  $('seed-random').addEventListener('click', () => {
    random = !random;
    edit({seed: random ? undefined : Math.floor(Math.random() * 2 ** 31)});
    showSeed();
  });
  for (const id of ['steps', 'variations']) $(id).addEventListener('change', saveDraft);

  /** Change keys of the document; undefined removes one. */
  function edit(changes) {
    board = withoutUndefined({...timeline.get(), ...changes});
    timeline.set(board);
    board = timeline.get();
    changed();
  }

  function changed() {
    saveDraft();
    clearTimeout(waiting);
    waiting = setTimeout(askCheck, CHECK_DELAY_MS);
  }

  function saveDraft() {
    writeDraft({storyboard: board, options: optionsNow()});
  }

  async function askCheck() {
    asking?.abort();
    asking = new AbortController();
    try {
      const told = await api.check(board, asking.signal);
      // What is merely not written yet is told when Generate is pressed, not while one writes.
      showFaults(tried ? told.faults : told.faults.filter(fault => !/\b(is empty; give|is missing;)/.test(fault)));
      $('warnings').replaceChildren(...(told.warnings ?? []).map(warning => make('li', {}, warning)));
      $('warnings').hidden = !told.warnings?.length;
      $('frames').textContent = told.resolved ? framesOf(told.resolved) : '';
      showCurves(told.curves ?? {});
    } catch (error) {
      if (error.name === 'AbortError') return;
      if (error instanceof api.Refusal && error.status === 400) showFaults(error.faults);
      else host.onFault(error);
    }
  }

  /** Draw over each subject's bars how strongly its encoding calls it: of several intervals the strongest. */
  function showCurves(curves) {
    const times = timesOf(board, model);
    timelineHost.marks = Object.fromEntries(Object.entries(curves).map(([name, rows]) => [name, {
      curve: strongest(rows, times),
    }]));
    timeline.refresh();
  }

  function showFields() {
    if ($('prompt').value !== (board.prompt ?? '')) $('prompt').value = board.prompt ?? '';
    $('negative-prompt').value = board.negative_prompt ?? '';
    if (board.negative_prompt) $('negative').open = true;
    showSeed();
  }

  function showSeed() {
    $('seed').value = board.seed ?? '';
    $('seed-random').setAttribute('aria-pressed', String(random));
    $('seed-hint').textContent = random ? 'another one each time' : 'the same seed, the same video';
  }

  function optionsNow() {
    const steps = numberIn('steps') ?? model.steps_default;
    const every = Math.min(Math.max(Math.round(steps / 8), 1), MOST_PREVIEW_STEPS);
    const seed = random ? null : board.seed ?? null;
    return {seed, steps, variations: numberIn('variations') ?? 1, preview_every: every};
  }

  function open(storyboard, told) {
    board = withoutUndefined({...storyboard, subjects: storyboard.subjects ?? []});
    random = board.seed == null;
    tried = false;
    timeline.set(board);
    board = timeline.get();
    showFields();
    changed();
    if (told) host.announce(told);
  }

  function focusSubjectOf(fault) {
    const subject = board.subjects.find((each, index) =>
      fault.startsWith(`subject "${each.name}"`) || fault.startsWith(`subject ${index + 1}:`));
    if (subject) timeline.focusSubject(subject.name);
    return Boolean(subject);
  }

  return {
    open,
    addPictures: files => timeline.addFiles(files),
    get: () => ({storyboard: board, options: optionsNow()}),
    clear: () => open(emptyBoard(model), 'A new storyboard'),
    restore() {
      const draft = readDraft();
      if (!draft) return false;
      const {steps, variations} = draft.options ?? {};
      if (steps) $('steps').value = steps;
      if (variations) $('variations').value = variations;
      try {
        open(draft.storyboard, '');
        return true;
      } catch {
        // It was kept by another version of this page, or changed by hand.
        return false;
      }
    },
    showFaults(faults) {
      if (!faults.length) return showFaults([]);
      tried = true;
      clearTimeout(waiting);
      asking?.abort();
      showFaults(faults, {focus: true, focusPart: focusSubjectOf});
      return undefined;
    },
  };
}

function emptyBoard(model) {
  return {prompt: '', duration: model.duration, subjects: []};
}

/** The last latent's frames reach to the video's end: the curve goes on level to it. */
function strongest(rows, times) {
  const highest = (rows[0] ?? []).map((_, index) => Math.max(...rows.map(row => row[index])));
  const curve = highest.map((value, index) => [latentSecond(index, times), value]);
  return curve.length ? [...curve, [times.duration, curve.at(-1)[1]]] : [];
}

function framesOf(resolved) {
  return `${resolved.num_frames} frames at ${resolved.fps} fps`;
}

function withoutUndefined(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function numberIn(id) {
  const value = $(id).valueAsNumber;
  if (!Number.isFinite(value)) return null;
  return Math.min(Math.trunc(value), MOST_SEED);
}
