//! A goal, and whether it was reached.

use hydra_harness::Table;

/// One goal and what was measured.
pub struct Goal {
    pub subject: String,
    pub what: String,
    pub wanted: f64,
    pub measured: f64,
    /// Whether more is better.
    pub at_least: bool,
}

impl Goal {
    /// Whether it is reached.
    pub fn is_reached(&self) -> bool {
        if self.at_least { self.measured >= self.wanted } else { self.measured <= self.wanted }
    }
}

/// A line for each.
pub fn table(goals: &[Goal]) -> Table {
    let mut table = Table::new(&["", "goal", ">wanted", ">measured", ""]);
    for goal in goals {
        let sign = if goal.at_least { "≥" } else { "≤" };
        table.row([
            goal.subject.clone(),
            goal.what.clone(),
            format!("{sign} {}", goal.wanted),
            format!("{:.3}", goal.measured),
            if goal.is_reached() { "reached".into() } else { "MISSED".to_owned() },
        ]);
    }
    table
}
