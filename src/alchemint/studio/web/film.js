/** A video's film strip, drawn by the browser from the video itself, so that it fits any width. */

import {make} from './element.js';

const TILE_HEIGHT = 76;
const LONGEST_WAIT_MS = 4000;

/**
 * Fill a lane with frames of a video: each tile shows the frame in the middle of the time that it covers.
 * @param {HTMLElement} lane
 * @param {string} url
 * @param {{fps: number, numFrames: number, duration: number}} times
 * @param {number} aspect width by height
 * @param {boolean} small whether pixels are to stay sharp
 * @param {AbortSignal} signal ends the work
 * @returns {Promise<boolean>} whether all of it was drawn
 */
export async function drawFilm(lane, url, times, aspect, small, signal) {
  const wanted = Math.round(lane.clientWidth / (TILE_HEIGHT * aspect));
  const count = Math.min(Math.max(wanted, 4), 24, times.numFrames);
  const [width, height] = [Math.round(TILE_HEIGHT * aspect * 2), TILE_HEIGHT * 2];
  const tiles = Array.from({length: count}, () => make('canvas', {width, height, className: small ? 'sharp' : ''}));
  lane.style.setProperty('--tiles', count);
  lane.replaceChildren(...tiles);
  const video = make('video', {src: url, muted: true, playsInline: true, preload: 'auto'});
  try {
    await happened(video, 'loadeddata', signal, () => video.load());
    for (const [index, tile] of tiles.entries()) {
      const middle = (index + 0.5) / count * times.duration;
      const second = (Math.round(middle * times.fps) + 0.5) / times.fps;
      await happened(video, 'seeked', signal, () => { video.currentTime = second; });
      const context = tile.getContext('2d');
      context.imageSmoothingEnabled = !small;
      context.drawImage(video, 0, 0, width, height);
    }
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    throw error;
  } finally {
    video.removeAttribute('src');
    video.load();
  }
}

function happened(video, event, signal, cause) {
  return new Promise((resolve, reject) => {
    const settled = new AbortController();
    const end = (finish, value) => {
      clearTimeout(late);
      settled.abort();
      finish(value);
    };
    const late = setTimeout(() => end(reject, new Error('the video could not be read')), LONGEST_WAIT_MS);
    const once = {once: true, signal: settled.signal};
    signal.addEventListener('abort', () => end(reject, signal.reason), once);
    video.addEventListener(event, () => end(resolve), once);
    video.addEventListener('error', () => end(reject, new Error('the video could not be decoded')), once);
    cause();
  });
}
