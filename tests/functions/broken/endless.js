console.log('loads');
for (;;);
