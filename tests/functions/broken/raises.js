throw new Error('deliberate: not today');
