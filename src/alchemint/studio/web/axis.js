/** A result's times. A video of n frames spans (n - 1) / fps seconds from its first frame to its last. */

/**
 * Tell frame rate, number of frames and span of a storyboard's video.
 * @param {Object} storyboard
 * @param {Object} model what GET /model answers: it gives what the storyboard leaves out
 * @returns {{fps: number, numFrames: number, duration: number, stride: number}}
 */
export function timesOf(storyboard, model) {
  const fps = storyboard.fps ?? model.fps;
  const given = storyboard.duration == null ? null : Math.round(storyboard.duration * fps) + 1;
  const numFrames = storyboard.num_frames ?? given ?? model.num_frames;
  return {fps, numFrames, duration: Math.max(numFrames - 1, 1) / fps, stride: model.temporal_stride ?? 4};
}

/**
 * Tell the second at which a latent frame is: latent 0 holds frame 0 alone, each other one `stride` frames.
 * @param {number} index
 * @param {{fps: number, stride: number}} times
 */
export function latentSecond(index, times) {
  return index === 0 ? 0 : (times.stride * index - (times.stride - 1) / 2) / times.fps;
}

/** Tell a percentage for CSS of where a second lies. */
export function place(second, times) {
  return `${100 * Math.min(Math.max(second / times.duration, 0), 1)}%`;
}

/** Write seconds with at most two decimals. */
export function seconds(value) {
  return `${Number(value.toFixed(2))}`;
}

/**
 * Choose round seconds for a ruler.
 * @returns {number[]} at most `most` steps and the zero
 */
export function ticks(duration, most) {
  const step = [0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300].find(each => duration / each <= most) ?? 600;
  return Array.from({length: Math.floor(duration / step + 1e-6) + 1}, (_, index) => index * step);
}
