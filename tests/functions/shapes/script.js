// The original's form: a top-level function that is not exported.
function main(args) {
  return `Hello, ${args.name}!`;
}
