// Makes the input data, the same at every run: node make-data.js DATA_DIRECTORY THUMBNAIL_DIRECTORY
'use strict';

const fs = require('fs');
const path = require('path');
const { createRequire } = require('module');

const [dataDirectory, thumbnailDirectory] = process.argv.slice(2);

function generator(seed) {
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed >>> 24;
  };
}

/** A landscape of gradients, discs and noise, which costs a JPEG decoder what a photograph does. */
function photo(width, height) {
  const random = generator(7);
  const discs = Array.from({ length: 40 }, () => ({
    x: (random() * width) >> 8,
    y: (random() * height) >> 8,
    radius: 10 + (random() >> 1),
    colour: [random(), random(), random()],
  }));
  const data = Buffer.alloc(width * height * 4);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const disc = discs.find((d) => (x - d.x) ** 2 + (y - d.y) ** 2 < d.radius ** 2);
      const base = disc === undefined ? [(x * 255) / width, (y * 255) / height, 160] : disc.colour;
      const noise = random() >> 4;
      for (let channel = 0; channel < 3; channel++) {
        data[(y * width + x) * 4 + channel] = Math.min(255, Math.floor(base[channel]) + noise);
      }
      data[(y * width + x) * 4 + 3] = 255;
    }
  }
  return { data, width, height };
}

function bytes(count) {
  const random = generator(11);
  return Buffer.from(Uint8Array.from({ length: count }, random));
}

const jpeg = createRequire(path.join(thumbnailDirectory, 'index.js'))('jpeg-js');
fs.writeFileSync(path.join(thumbnailDirectory, 'photo.jpg'), jpeg.encode(photo(640, 480), 85).data);
fs.writeFileSync(path.join(dataDirectory, 'javascript-upload.bin'), bytes(1 << 20));
