//! Tables of results for a terminal.

use comfy_table::{CellAlignment, LineStyle, TableStyle};

/// A table with aligned columns, two spaces between them and a line under its titles.
pub struct Table {
    inner: comfy_table::Table,
}

impl Table {
    /// A table with these column titles. A title that starts with `>` (which is not shown) aligns its column to the right, as
    /// numbers want it.
    pub fn new(titles: &[&str]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(TableStyle::new().header_separator(LineStyle::none().fill('-')));
        inner.set_header(titles.iter().map(|title| title.trim_start_matches('>')));
        for (index, (column, title)) in inner.column_iter_mut().zip(titles).enumerate() {
            column.set_padding((0, if index + 1 < titles.len() { 2 } else { 0 }));
            if title.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { inner }
    }

    /// Adds a row. Control characters are shown as spaces, so that a function's result cannot break the table.
    pub fn row<I>(&mut self, cells: I)
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let clean =
            |cell: &str| cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        self.inner.add_row(cells.into_iter().map(|cell| clean(cell.as_ref())));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<_> = self.inner.lines().map(|line| line.trim_end().to_owned()).collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["function", ">ms", "result"]);
        table.row(["a", "1.5", "x\ny"]);
        table.row(["longer-name", "120.0", "größe"]);
        assert_eq!(
            table.to_string(),
            "function        ms  result\n\
             --------------------------\n\
             a              1.5  x y\n\
             longer-name  120.0  größe"
        );
    }
}
