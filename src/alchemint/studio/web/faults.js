/** Faults shown at the field that they name. */

import {make} from './element.js';

/** In the order of the page: list, what its faults begin with, the control that takes the focus. */
const FIELDS = [
  ['prompt', /^prompt\b/, '#prompt'],
  ['negative_prompt', /^negative_prompt\b/, '#negative-prompt'],
  ['timeline', /^(subjects?|events?)\b|^end [\d.]+ s is after/, null],
  ['duration', /^(duration|num_frames|fps|width|height)\b/, '.tl-duration input'],
  ['steps', /^(options\W*)?(num_inference_)?steps\b/, '#steps'],
  ['variations', /^(options\W*)?variations\b/, '#variations'],
  ['seed', /^(options\W*)?seed\b/, '#seed'],
  ['generate', /^/, null],
];

/**
 * Show faults, each at its field, in place of all shown before.
 * @param {string[]} faults
 * @param {{focus?: boolean, focusPart?: (fault: string) => boolean}} [choices] focus: move it to the first field at
 *   fault; focusPart: moves it to what a fault of the timeline names, and tells whether it could
 */
export function showFaults(faults, choices = {}) {
  const sorted = new Map(FIELDS.map(([name]) => [name, []]));
  for (const fault of faults) sorted.get(FIELDS.find(([, pattern]) => pattern.test(fault))[0]).push(fault);
  for (const [name, , selector] of FIELDS) {
    const list = document.getElementById(`faults-${name}`);
    list.replaceChildren(...sorted.get(name).map(fault => make('li', {}, fault)));
    list.hidden = !sorted.get(name).length;
    const control = selector && document.querySelector(selector);
    if (!control) continue;
    for (const [attribute, value] of [['aria-invalid', 'true'], ['aria-describedby', list.id]]) {
      if (list.hidden) control.removeAttribute(attribute);
      else control.setAttribute(attribute, value);
    }
    if (!list.hidden && name === 'negative_prompt') document.getElementById('negative').open = true;
  }
  if (choices.focus && faults.length) focusFirst(sorted, choices.focusPart);
}

function focusFirst(sorted, focusPart) {
  const [name, , selector] = FIELDS.find(([field]) => sorted.get(field).length);
  const list = document.getElementById(`faults-${name}`);
  const isFocused = name === 'timeline' && focusPart?.(sorted.get(name)[0]);
  if (!isFocused) ((selector && document.querySelector(selector)) || list).focus();
  list.scrollIntoView({block: 'nearest'});
}
