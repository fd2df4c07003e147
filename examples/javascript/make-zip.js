// Makes a zip of a directory, the same bytes for the same files: node make-zip.js DIRECTORY ZIP
'use strict';

const fs = require('fs');
const path = require('path');
const zlib = require('zlib');

const DEFLATED = 8;
const VERSION = 20; // 2.0: deflate and directories
const DATE = (1 << 5) | 1; // 1 January 1980, the epoch of the format
const UTF8_NAMES = 1 << 11;

/** The CRC-32 of IEEE 802.3; Node's own is not in version 18. */
function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) {
      crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
  }
  return ~crc >>> 0;
}

function files(directory, prefix = '') {
  const entries = fs.readdirSync(directory, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  return entries.flatMap((entry) => {
    const name = prefix + entry.name;
    return entry.isDirectory() ? files(path.join(directory, entry.name), `${name}/`) : [name];
  });
}

function zip(directory) {
  const parts = [];
  const central = [];
  let offset = 0;
  const names = files(directory);
  for (const name of names) {
    const content = fs.readFileSync(path.join(directory, name));
    const packed = zlib.deflateRawSync(content, { level: 9 });
    const encoded = Buffer.from(name);
    // The fields that a local header (APPNOTE 4.3.7) and one of the central directory (4.3.12) have in common.
    const common = Buffer.alloc(26);
    [VERSION, UTF8_NAMES, DEFLATED, 0, DATE].forEach((value, i) => common.writeUInt16LE(value, 2 * i));
    [crc32(content), packed.length, content.length].forEach((value, i) => common.writeUInt32LE(value, 10 + 4 * i));
    common.writeUInt16LE(encoded.length, 22);
    const madeBy = Buffer.from([VERSION, 3]); // on Unix, for the file's mode
    const rest = Buffer.alloc(14);
    rest.writeUInt32LE((0o100644 << 16) >>> 0, 6);
    rest.writeUInt32LE(offset, 10);
    central.push(Buffer.from('PK\x01\x02', 'latin1'), madeBy, common, rest, encoded);
    const local = [Buffer.from('PK\x03\x04', 'latin1'), common, encoded, packed];
    parts.push(...local);
    offset += local.reduce((sum, part) => sum + part.length, 0);
  }
  const directorySize = central.reduce((sum, part) => sum + part.length, 0);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(names.length, 8);
  end.writeUInt16LE(names.length, 10);
  end.writeUInt32LE(directorySize, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, ...central, end]);
}

const [directory, file] = process.argv.slice(2);
fs.writeFileSync(file, zip(directory));
