'use strict';

const fs = require('fs');
const path = require('path');
const { createHash } = require('crypto');
const jpeg = require('jpeg-js');

/** Scales `photo.jpg`, which lies beside this file, down to `width` pixels; writes the thumbnail into `tmpDir` and reads it back. */
exports.main = ({ width = 160, quality = 80, tmpDir }) => {
  const photo = jpeg.decode(fs.readFileSync(path.join(__dirname, 'photo.jpg')), { useTArray: true });
  const small = scaleDown(photo, width, Math.round((photo.height * width) / photo.width));
  const file = path.join(tmpDir, `thumbnail-${width}.jpg`);
  fs.writeFileSync(file, jpeg.encode(small, quality).data);
  const written = fs.readFileSync(file);
  return {
    from: [photo.width, photo.height],
    to: [small.width, small.height],
    bytes: written.length,
    sha256: createHash('sha256').update(written).digest('hex'),
  };
};

/** Each pixel of the result is the mean of the pixels that it covers. */
function scaleDown(image, width, height) {
  if (!(width >= 1 && width <= image.width && height >= 1)) {
    throw new RangeError(`width is ${width}: it must be 1 to ${image.width}`);
  }
  const data = new Uint8Array(width * height * 4);
  for (let y = 0; y < height; y++) {
    const top = Math.floor((y * image.height) / height);
    const bottom = Math.floor(((y + 1) * image.height) / height);
    for (let x = 0; x < width; x++) {
      const left = Math.floor((x * image.width) / width);
      const right = Math.floor(((x + 1) * image.width) / width);
      const sum = [0, 0, 0, 0];
      for (let v = top; v < bottom; v++) {
        for (let at = (v * image.width + left) * 4, end = (v * image.width + right) * 4; at < end; at += 4) {
          sum[0] += image.data[at];
          sum[1] += image.data[at + 1];
          sum[2] += image.data[at + 2];
          sum[3] += image.data[at + 3];
        }
      }
      const count = (bottom - top) * (right - left);
      for (let channel = 0; channel < 4; channel++) {
        data[(y * width + x) * 4 + channel] = Math.round(sum[channel] / count);
      }
    }
  }
  return { data, width, height };
}
