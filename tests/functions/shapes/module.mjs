// An ES module with a default export.
export default (args) => `Hello, ${args.name}!`;
