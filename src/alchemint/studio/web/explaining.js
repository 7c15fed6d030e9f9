/** One plain sentence on each subject: was it on screen when asked, and what do the curves say of it? */

import {latentSecond, seconds} from './axis.js';

/** The share of its own peak from which attention counts as turned to a subject. */
const TURNED = 0.5;

/**
 * Explain a subject's times.
 *
 * @param {string} name
 * @param {number[][]} asked intervals in seconds
 * @param {number[][]|undefined} seen intervals in seconds; undefined where nobody looked
 * @param {number[]|undefined} attention share for each latent frame; undefined where it was not recorded
 * @param {{fps: number, stride: number, duration: number}} times
 * @returns {{text: string, kind: 'good'|'off'|'unknown'}}
 */
export function explain(name, asked, seen, attention, times) {
  if (!asked.length) return {text: `${name} is asked for at no time.`, kind: 'unknown'};
  const slack = times.stride / times.fps + 1e-6;
  const start = Math.min(...asked.map(interval => interval[0]));
  const end = Math.max(...asked.map(interval => interval[1]));
  const turned = turnedTo(attention, times);
  const drawn = attentionSays(turned, start, slack);
  if (!seen) {
    return {text: `When ${name} is really seen was not measured${turned ? `; ${drawn.alone}` : ''}.`, kind: 'unknown'};
  }
  if (!seen.length) {
    return {text: `${name} was not recognised at any time${turned ? `; ${drawn.alone}` : ''}. Another seed, `
      + 'more steps or a clearer picture may help.', kind: 'off'};
  }
  const first = Math.min(...seen.map(interval => interval[0]));
  const last = Math.max(...seen.map(interval => interval[1]));
  const [late, over] = [first - start, last - end];
  if (Math.abs(late) <= slack && Math.abs(over) <= slack) {
    const text = `${name} is on screen when asked, to within ${seconds(slack)} s, the model's own step.`;
    return {text, kind: 'good'};
  }
  const parts = [];
  if (late > slack) parts.push(`comes ${seconds(late)} s late`);
  if (late < -slack) parts.push(`comes ${seconds(-late)} s early`);
  if (over > slack) parts.push(`stays ${seconds(over)} s too long`);
  if (over < -slack) parts.push(`leaves ${seconds(-over)} s early`);
  const why = late > slack && turned ? `: ${drawn.because}` : '';
  return {text: `${name} ${parts.join(' and ')}${why}.`, kind: 'off'};
}

/** Tell from when to when attention is above a share of its own peak, in seconds. */
function turnedTo(attention, times) {
  if (!attention?.length) return null;
  const peak = Math.max(...attention);
  if (!(peak > 0)) return null;
  const above = [...attention.keys()].filter(index => attention[index] >= TURNED * peak)
    .map(index => latentSecond(index, times));
  return {from: above[0], until: above.at(-1), peak, at: latentSecond(attention.indexOf(peak), times)};
}

function attentionSays(turned, start, slack) {
  if (!turned) return {};
  const alone = `the frames looked at its picture most at ${seconds(turned.at)} s`;
  if (turned.from > start + slack) {
    return {alone, because: `the frames turned to its picture only from ${seconds(turned.from)} s on`};
  }
  if (turned.from < start - slack) {
    return {alone, because: `the frames turned to its picture from ${seconds(turned.from)} s on already`};
  }
  return {alone, because: 'the frames turned to its picture in time, but what they drew was not recognised yet'};
}
