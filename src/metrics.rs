//! What `/metrics` shows, in Prometheus' text format.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::function::Spec;
use crate::linux::counters::Counts;
use crate::sandbox::{Invocation, PoolStatus, Start};

/// Upper bounds of the latency histograms, in seconds.
const BUCKETS: [f64; 15] =
    [50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 200e-3, 500e-3, 1.0, 5.0];

/// How a request can end, as the label `outcome`: `ok`, or the `kind` of its error.
const OK: &str = "ok";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    function: String,
    sandbox: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Started {
    function: String,
    start: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Sandboxes {
    function: String,
    sandbox: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Guest {
    function: String,
    what: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Process {
    process: &'static str,
}

/// Every metric of a Hydra.
pub struct Metrics {
    registry: Registry,
    invocations: Family<Outcome, Counter>,
    seconds: Family<Started, Histogram>,
    sandboxes: Family<Sandboxes, Gauge>,
    guest_events: Family<Guest, Counter>,
    guest_seconds: Family<Guest, Counter<f64, AtomicU64>>,
    resident: Family<Process, Gauge<i64, std::sync::atomic::AtomicI64>>,
    functions: Gauge,
    in_flight: Gauge,
}

/// The metrics of one function, at hand for each request. They are not shown any more once the function is [forgotten](Metrics::forget).
pub struct FunctionMetrics {
    ok: Counter<u64, AtomicU64>,
    /// By the kind of the error.
    failed: Vec<(&'static str, Counter<u64, AtomicU64>)>,
    cold: Histogram,
    template: Histogram,
    restore: Histogram,
    reset: Histogram,
    warm: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("hydra");
        let invocations = Family::default();
        registry.register("invocations", "Invocations, by how they ended", invocations.clone());
        let seconds = Family::<Started, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let help = "Time of invocations with a result, from the request to the answer, by how the sandbox was come by";
        registry.register_with_unit("invocation", help, Unit::Seconds, seconds.clone());
        let sandboxes = Family::default();
        registry.register("sandboxes", "Sandboxes alive", sandboxes.clone());
        let guest_events = Family::default();
        let help = "What a function's microVMs did: system calls served, page faults, and so on";
        registry.register("guest_events", help, guest_events.clone());
        let guest_seconds = Family::default();
        let help = "Where their time went, all vCPUs added up";
        registry.register_with_unit("guest", help, Unit::Seconds, guest_seconds.clone());
        let resident = Family::default();
        let help = "Resident memory of Hydra and of its language hosts";
        registry.register_with_unit("resident", help, Unit::Bytes, resident.clone());
        let functions = Gauge::default();
        registry.register("functions", "Functions registered", functions.clone());
        let in_flight = Gauge::default();
        registry.register("requests_in_flight", "HTTP requests being served", in_flight.clone());
        Metrics {
            registry,
            invocations,
            seconds,
            sandboxes,
            guest_events,
            guest_seconds,
            resident,
            functions,
            in_flight,
        }
    }
}

impl Metrics {
    /// The metrics of the function of `spec`, whose errors are of these `kinds`.
    pub fn function(&self, spec: &Spec, kinds: &[&'static str]) -> FunctionMetrics {
        let ended = |how| self.invocations.get_or_create_owned(&outcome(spec, how));
        let seconds = |start: Start| {
            self.seconds.get_or_create_owned(&Started { function: spec.name.clone(), start: start.name() })
        };
        FunctionMetrics {
            ok: ended(OK),
            failed: kinds.iter().map(|kind| (*kind, ended(kind))).collect(),
            cold: seconds(Start::Cold),
            template: seconds(Start::Template),
            restore: seconds(Start::Restore),
            reset: seconds(Start::Reset),
            warm: seconds(Start::Warm),
        }
    }

    /// Forgets a function that was deregistered; `kinds` are those that its errors may have had.
    pub fn forget(&self, spec: &Spec, kinds: &[&'static str]) {
        for kind in kinds.iter().chain([&OK]) {
            self.invocations.remove(&outcome(spec, kind));
        }
        for start in [Start::Cold, Start::Template, Start::Restore, Start::Reset, Start::Warm] {
            self.seconds.remove(&Started { function: spec.name.clone(), start: start.name() });
        }
        for (state, _) in states(&PoolStatus { idle: 0, busy: 0, starting: 0, waiting: 0 }) {
            self.sandboxes.remove(&sandboxes(spec, state));
        }
        for (name, _) in Counts::default().each() {
            match name.strip_suffix("_ns") {
                Some(phase) => self.guest_seconds.remove(&guest(spec, phase)),
                None => self.guest_events.remove(&guest(spec, name)),
            };
        }
    }

    /// Requests being served.
    pub fn in_flight(&self) -> &Gauge {
        &self.in_flight
    }

    /// Sets how many functions there are.
    pub fn set_functions(&self, count: usize) {
        self.functions.set(count as i64);
    }

    /// Sets how many sandboxes the function of `spec` has.
    pub fn set_sandboxes(&self, spec: &Spec, status: &PoolStatus) {
        for (state, count) in states(status) {
            self.sandboxes.get_or_create(&sandboxes(spec, state)).set(i64::from(count));
        }
    }

    /// Sets what the microVMs of the function of `spec` did.
    pub fn set_guest(&self, spec: &Spec, counts: &Counts) {
        for (name, sum) in counts.each() {
            match name.strip_suffix("_ns") {
                Some(phase) => {
                    let seconds = sum as f64 / 1e9;
                    let counter = self.guest_seconds.get_or_create_owned(&guest(spec, phase));
                    counter.inner().store(seconds.to_bits(), Ordering::Relaxed);
                }
                None => {
                    let counter = self.guest_events.get_or_create_owned(&guest(spec, name));
                    counter.inner().store(sum, Ordering::Relaxed);
                }
            }
        }
    }

    /// Sets the resident memory of a process, in bytes.
    pub fn set_resident(&self, process: &'static str, bytes: u64) {
        self.resident.get_or_create(&Process { process }).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// All metrics as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl FunctionMetrics {
    /// Counts an invocation that has a result.
    pub fn succeeded(&self, invocation: &Invocation) {
        self.ok.inc();
        let seconds = match invocation.start {
            Start::Cold => &self.cold,
            Start::Template => &self.template,
            Start::Restore => &self.restore,
            Start::Reset => &self.reset,
            Start::Warm => &self.warm,
        };
        let time = invocation.queue_time + invocation.start_time + invocation.run_time;
        seconds.observe(time.as_secs_f64());
    }

    /// Counts an invocation that ended with an error of `kind`.
    pub fn failed(&self, kind: &str) {
        if let Some((_, count)) = self.failed.iter().find(|(known, _)| *known == kind) {
            count.inc();
        }
    }

    /// How many ended with an error.
    pub fn failures(&self) -> u64 {
        self.failed.iter().map(|(_, count)| count.get()).sum()
    }
}

fn outcome(spec: &Spec, outcome: &'static str) -> Outcome {
    Outcome { function: spec.name.clone(), sandbox: spec.sandbox.name(), outcome }
}

fn sandboxes(spec: &Spec, state: &'static str) -> Sandboxes {
    Sandboxes { function: spec.name.clone(), sandbox: spec.sandbox.name(), state }
}

fn guest(spec: &Spec, what: &'static str) -> Guest {
    Guest { function: spec.name.clone(), what }
}

fn states(status: &PoolStatus) -> [(&'static str, u32); 3] {
    [("idle", status.idle), ("busy", status.busy), ("starting", status.starting)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::test_agent;

    #[test]
    fn what_a_forgotten_function_still_does_is_not_shown() {
        let (metrics, function) = (Metrics::default(), test_agent::function());
        let kinds = ["raised", "died"];
        let before = metrics.function(&function.spec, &kinds);
        before.failed("raised");
        assert!(metrics.text().contains(r#"outcome="raised"} 1"#), "{}", metrics.text());
        metrics.forget(&function.spec, &kinds);
        before.failed("died");
        assert!(!metrics.text().contains(r#"function="test""#), "{}", metrics.text());
        // Nor does it count for another of its name.
        let after = metrics.function(&function.spec, &kinds);
        before.failed("died");
        after.failed("raised");
        assert_eq!((before.failures(), after.failures()), (3, 1));
        assert!(metrics.text().contains(r#"outcome="died"} 0"#), "{}", metrics.text());
    }
}
