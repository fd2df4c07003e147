//! Hydra, the function runtime.
fn main() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == "jail-init") {
        hydra::jail::init_main(arguments);
    }
}
