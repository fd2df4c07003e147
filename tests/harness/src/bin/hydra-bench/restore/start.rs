//! The ways in which a request comes by a sandbox.

/// How a sandbox was come by. In the order of the tables: the fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Start {
    /// A microVM that was there and is used again.
    Warm,
    /// A microVM that served before, and was put back to its checkpoint.
    Reset,
    /// A microVM that was made from the function's snapshot before the request.
    CopiedAhead,
    /// A microVM that was made from the function's snapshot for the request.
    Restored,
    /// A new microVM of a function that was never seen before, made from its language's template; with the registration.
    Template,
    /// A new microVM in which everything starts; with the registration.
    ColdVm,
    /// As [`Start::Warm`], in a VMM process.
    WarmJailed,
    /// As [`Start::Reset`], in a VMM process.
    ResetJailed,
    /// As [`Start::CopiedAhead`], in a VMM process.
    CopiedJailed,
    /// As [`Start::Template`], in a VMM process.
    TemplateJailed,
    /// A process that was there and is used again.
    WarmProcess,
    /// A process that waited in a pool, without a function.
    PooledProcess,
    /// A process that was started for the request.
    ColdProcess,
    /// An isolate that was there and is used again.
    WarmIsolate,
    /// An isolate that was made for the request.
    NewIsolate,
}

/// What is asked of Hydra to have a sandbox of some kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Any sandbox.
    Any,
    /// A sandbox that has served nobody, by `"cached": "false"`.
    Fresh,
    /// The same, of a function that is registered with `isolation=request`.
    Request,
    /// The first invocation of a function that was registered just now.
    First,
}

/// One of the things that are asked for in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub sandbox: &'static str,
    pub way: Way,
    /// Of a Hydra that starts nothing ahead of need.
    pub unprepared: bool,
    /// Takes so little time that it is done several times in a round.
    pub cheap: bool,
}

/// Everything that is asked for, of each function.
pub const ASKED: [Asked; 14] = [
    Asked { sandbox: "snapshot", way: Way::Any, unprepared: false, cheap: true },
    Asked { sandbox: "snapshot", way: Way::Request, unprepared: false, cheap: true },
    Asked { sandbox: "snapshot", way: Way::Fresh, unprepared: false, cheap: true },
    Asked { sandbox: "snapshot", way: Way::Fresh, unprepared: true, cheap: true },
    Asked { sandbox: "snapshot", way: Way::First, unprepared: false, cheap: false },
    Asked { sandbox: "snapshot", way: Way::First, unprepared: true, cheap: false },
    Asked { sandbox: "snapshot-process", way: Way::Any, unprepared: false, cheap: true },
    Asked { sandbox: "snapshot-process", way: Way::Request, unprepared: false, cheap: true },
    Asked { sandbox: "snapshot-process", way: Way::First, unprepared: false, cheap: false },
    Asked { sandbox: "process", way: Way::Any, unprepared: false, cheap: true },
    Asked { sandbox: "process", way: Way::Fresh, unprepared: false, cheap: false },
    Asked { sandbox: "process", way: Way::Fresh, unprepared: true, cheap: false },
    Asked { sandbox: "isolate", way: Way::Any, unprepared: false, cheap: true },
    Asked { sandbox: "isolate", way: Way::Fresh, unprepared: false, cheap: false },
];

impl Start {
    /// All of them, in their order.
    pub const ALL: [Start; 15] = [
        Start::Warm,
        Start::Reset,
        Start::CopiedAhead,
        Start::Restored,
        Start::Template,
        Start::ColdVm,
        Start::WarmJailed,
        Start::ResetJailed,
        Start::CopiedJailed,
        Start::TemplateJailed,
        Start::WarmProcess,
        Start::PooledProcess,
        Start::ColdProcess,
        Start::WarmIsolate,
        Start::NewIsolate,
    ];

    /// What it was, by what was asked for and what Hydra said in `Server-Timing`; `None` where that is neither. What was asked for does
    /// not decide it: a host without templates starts a function's first microVM cold.
    pub fn of(asked: Asked, said: &str) -> Option<Start> {
        Some(match (asked.sandbox, said) {
            ("snapshot", "warm") => Start::Warm,
            ("snapshot", "reset") => Start::Reset,
            ("snapshot", "restore") if asked.unprepared => Start::Restored,
            ("snapshot", "restore") => Start::CopiedAhead,
            ("snapshot", "template") => Start::Template,
            ("snapshot", "cold") => Start::ColdVm,
            ("snapshot-process", "warm") => Start::WarmJailed,
            ("snapshot-process", "reset") => Start::ResetJailed,
            ("snapshot-process", "restore") => Start::CopiedJailed,
            ("snapshot-process", "template") => Start::TemplateJailed,
            ("process", "warm") => Start::WarmProcess,
            ("process", "cold") if asked.unprepared => Start::ColdProcess,
            ("process", "cold") => Start::PooledProcess,
            ("isolate", "warm") => Start::WarmIsolate,
            ("isolate", "cold") => Start::NewIsolate,
            _ => return None,
        })
    }

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Start::Warm => "snapshot: warm",
            Start::Reset => "snapshot: reset",
            Start::CopiedAhead => "snapshot: copied ahead",
            Start::Restored => "snapshot: restored",
            Start::Template => "snapshot: from template",
            Start::ColdVm => "snapshot: cold microVM",
            Start::WarmJailed => "snapshot-process: warm",
            Start::ResetJailed => "snapshot-process: reset",
            Start::CopiedJailed => "snapshot-process: copied ahead",
            Start::TemplateJailed => "snapshot-process: from template",
            Start::WarmProcess => "process: warm",
            Start::PooledProcess => "process: from the pool",
            Start::ColdProcess => "process: cold",
            Start::WarmIsolate => "isolate: warm",
            Start::NewIsolate => "isolate: new",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hydra_says_decides() {
        let first = ASKED[4];
        assert_eq!(Start::of(first, "cold"), Some(Start::ColdVm));
        assert_eq!(Start::of(first, "template"), Some(Start::Template));
        let processes: Vec<_> = ASKED.into_iter().filter(|asked| asked.sandbox == "process").collect();
        let cold: Vec<_> = processes.iter().map(|asked| Start::of(*asked, "cold")).collect();
        assert_eq!(cold[1..], [Some(Start::PooledProcess), Some(Start::ColdProcess)]);
        assert_eq!(Start::of(first, "thawed"), None);
    }
}
