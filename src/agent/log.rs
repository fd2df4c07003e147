//! Where what a function prints goes: Hydra's log, under the function's name, at a bounded rate.

use std::time::{Duration, Instant};

/// Most bytes that one sandbox may print in [`PERIOD`].
const BUDGET: usize = 1 << 20;
/// What each line counts for besides its own bytes: about what the log adds to it.
const LINE_COST: usize = 128;
const PERIOD: Duration = Duration::from_secs(1);

/// Longest line that is logged whole, in bytes; a longer one is cut.
const MAX_LINE: usize = 8 << 10;

/// Standard output or standard error of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Writes one function's (or one agent's) output to the log, line by line; what is over the rate is dropped and counted.
#[derive(Debug)]
pub struct LogSink {
    source: String,
    spent: usize,
    dropped: usize,
    since: Instant,
}

impl LogSink {
    /// A sink for what `source` prints: a function's name, or an agent's.
    pub fn new(source: impl Into<String>) -> LogSink {
        LogSink { source: source.into(), spent: 0, dropped: 0, since: Instant::now() }
    }

    /// From now on the output is that of `source`.
    pub fn rename(&mut self, source: &str) {
        source.clone_into(&mut self.source);
    }

    /// Logs `text`: any number of lines.
    pub fn write(&mut self, stream: Stream, text: &str) {
        if self.since.elapsed() >= PERIOD {
            if self.dropped > 0 {
                tracing::warn!(target: "function", function = self.source, bytes = self.dropped, "output dropped: it prints too fast");
            }
            (self.spent, self.dropped, self.since) = (0, 0, Instant::now());
        }
        for line in text.split_inclusive('\n') {
            self.spent = self.spent.saturating_add(LINE_COST + line.len());
            if self.spent > BUDGET {
                self.dropped = self.dropped.saturating_add(line.len());
                continue;
            }
            let line = line.lines().next().unwrap_or_default();
            let line = &line[..line.floor_char_boundary(MAX_LINE)];
            tracing::info!(target: "function", function = self.source, stream = stream.name(), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_is_bounded_in_bytes_and_in_lines() {
        for line in ["", "a line of some length, as a program prints it when it has something to say"] {
            let mut sink = LogSink::new("test");
            // In the future: the period does not end, however slow the machine is.
            sink.since = Instant::now() + Duration::from_secs(3600);
            let text = format!("{line}\n");
            let fit = BUDGET / (LINE_COST + text.len());
            sink.write(Stream::Stdout, &text.repeat(fit));
            assert_eq!(sink.dropped, 0);
            sink.write(Stream::Stderr, &text.repeat(1000));
            assert_eq!(sink.dropped, 1000 * text.len());
        }
    }
}
