//! Text tables with aligned columns.

use std::fmt::Write as _;

/// Writes each row as one line. A column is as wide as its widest cell, in characters; two spaces separate
/// columns. A column whose cells are all empty is left out, and no line ends with spaces.
pub(crate) fn format_table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut table = String::new();
    for row in rows {
        let start = table.len();
        for (cell, width) in row.iter().zip(widths).filter(|(_, width)| *width > 0) {
            // Writing into a String does not fail.
            let _ = write!(table, "{cell:<width$}  ");
        }
        table.truncate(start + table[start..].trim_end().len());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let rows = [["ID", "", "NAME"], ["1", "", "Zoë"], ["10000", "", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(format_table(&rows), "ID     NAME\n1      Zoë\n10000\n");
        assert_eq!(format_table::<3>(&[]), "");
    }
}
