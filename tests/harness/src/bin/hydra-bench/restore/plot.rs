//! The plot of a run: a line for each start of the hello-worlds and each peer, from p50 to p99, on a logarithmic axis.

use std::path::{Path, PathBuf};

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, fontdb};

use super::samples::{Percentiles, Samples};
use super::start::Start;
use super::{LANGUAGES, hello, peers};
use crate::Failure;
use crate::environment::Machine;

/// Sizes in pixels.
const WIDTH: u32 = 960;
const LINE: u32 = 21;
const HEADING: u32 = 54;
const LABELS: u32 = 250;
const AXIS: u32 = 34;
const MARGIN: u32 = 12;
const RIGHT: u32 = 34;
/// How much finer the PNG is than the SVG's size says.
const SCALE: f32 = 2.0;

const SNAPSHOT: RGBColor = RGBColor(0xc0, 0x39, 0x2b);
const JAILED: RGBColor = RGBColor(0x8e, 0x44, 0xad);
const PROCESS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const ISOLATE: RGBColor = RGBColor(0x2e, 0x8b, 0x57);
const PEER: RGBColor = RGBColor(0x77, 0x77, 0x77);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// One line of it.
struct Line {
    name: String,
    color: RGBColor,
    times: Percentiles,
}

/// Writes `BASE.svg` and `BASE.png`, and returns their paths; nothing where nothing was measured.
///
/// # Errors
/// Where they cannot be drawn or written.
pub fn save(base: &Path, samples: &Samples, machine: &Machine) -> Result<Vec<PathBuf>, Failure> {
    let panels: Vec<_> = LANGUAGES
        .into_iter()
        .map(|language| (language, lines(samples, language)))
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    if panels.is_empty() {
        return Ok(Vec::new());
    }
    let svg = draw(&panels, machine)?;
    let paths = [base.with_extension("svg"), base.with_extension("png")];
    std::fs::write(&paths[0], &svg)?;
    std::fs::write(&paths[1], as_png(&svg)?)?;
    Ok(paths.into())
}

/// Hydra's starts in their order, then the peers, the fastest first.
fn lines(samples: &Samples, language: &str) -> Vec<Line> {
    let function = hello(language);
    let ours = Start::ALL.into_iter().filter_map(|start| {
        let name = start.name();
        let color = match name.split(':').next() {
            Some("snapshot") => SNAPSHOT,
            Some("snapshot-process") => JAILED,
            Some("process") => PROCESS,
            _ => ISOLATE,
        };
        Some(Line { name: format!("Hydra {name}"), color, times: samples.of(&function, start)? })
    });
    let mut others: Vec<_> = peers::all()
        .iter()
        .filter(|peer| peer.language == language)
        .filter_map(|peer| {
            let name = peer.name.trim_end_matches(language).trim_end().to_owned();
            Some(Line { name, color: PEER, times: samples.of_peer(peer.name)? })
        })
        .collect();
    others.sort_by(|a, b| a.times.p50.total_cmp(&b.times.p50));
    ours.chain(others).collect()
}

fn draw(panels: &[(&str, Vec<Line>)], machine: &Machine) -> Result<String, Failure> {
    let count: usize = panels.iter().map(|(_, lines)| lines.len()).sum();
    let height = HEADING + panels.len() as u32 * (AXIS + HEADING / 2) + count as u32 * LINE + MARGIN;
    let all = || panels.iter().flat_map(|(_, lines)| lines);
    // Whole powers of ten around everything.
    let low = 10f64.powf(all().map(|line| line.times.p50).fold(f64::MAX, f64::min).max(1e-3).log10().floor());
    let high = 10f64.powf(all().map(|line| line.times.p99).fold(0.0, f64::max).max(1e-2).log10().ceil());
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let title = ("sans-serif", 17).into_font().style(FontStyle::Bold).color(&BLACK);
        root.draw_text("From the request to the answer of a hello-world, in ms", &title, (14, 12))?;
        let note = format!(
            "dot: p50, bar: p90, line: to p99. In grey: servers from their own start, isolates and programs likewise. {} CPUs, Linux {}",
            machine.cpus, machine.kernel
        );
        root.draw_text(&note, &("sans-serif", 11).into_font().color(&PEER), (14, 34))?;
        let mut top = HEADING;
        for (language, lines) in panels {
            let size = HEADING / 2 + lines.len() as u32 * LINE + AXIS;
            let area = root.clone().shrink((0u32, top), (WIDTH - RIGHT, size));
            panel(&area, language, lines, low..high)?;
            top += size;
        }
        root.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel(area: &Area, language: &str, lines: &[Line], range: std::ops::Range<f64>) -> Result<(), Failure> {
    let heading = ("sans-serif", 14).into_font().style(FontStyle::Bold).color(&BLACK);
    area.draw_text(language, &heading, (14, 8))?;
    let inner = area.margin(HEADING / 2, 0, 0, 0);
    let (start, count) = (range.start, lines.len() as f64);
    let mut chart = ChartBuilder::on(&inner)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .set_label_area_size(LabelAreaPosition::Bottom, AXIS)
        .build_cartesian_2d(range.log_scale(), count..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(8)
        .light_line_style(GRID.mix(0.5))
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_label_formatter(&|ms| format!("{ms}"))
        .label_style(("sans-serif", 11))
        .draw()?;
    let label =
        |color: &RGBColor, at| ("sans-serif", 12).into_font().color(color).pos(Pos::new(at, VPos::Center));
    for (index, line) in lines.iter().enumerate() {
        let y = index as f64 + 0.5;
        let Percentiles { p50, p90, p99, .. } = line.times;
        let thin = line.color.mix(0.6).stroke_width(2);
        chart.draw_series([PathElement::new([(p50, y), (p99, y)], thin)])?;
        chart.draw_series([PathElement::new([(p90, y - 0.2), (p90, y + 0.2)], thin)])?;
        chart.draw_series([Circle::new((p50, y), 5, line.color.filled())])?;
        let beside = EmptyElement::at((p99.max(p50), y))
            + Text::new(in_short(p50), (9, 0), label(&line.color, HPos::Left));
        chart.draw_series([beside])?;
        let name = EmptyElement::at((start, y))
            + Text::new(line.name.clone(), (-8, 0), label(&line.color, HPos::Right));
        chart.draw_series([name])?;
    }
    Ok(())
}

/// Three digits that count.
fn in_short(ms: f64) -> String {
    let digits = if ms < 10.0 { 2 } else { usize::from(ms < 100.0) };
    format!("{ms:.digits$}")
}

fn as_png(svg: &str) -> Result<Vec<u8>, Failure> {
    let mut options = usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_system_fonts();
    let is_there =
        |family| fonts.query(&fontdb::Query { families: &[family], ..fontdb::Query::default() }).is_some();
    if !is_there(fontdb::Family::SansSerif) {
        // The usual families of this name are not installed: any that is plain.
        let plain = |name: &String| name.contains("Sans") && !name.contains("Mono");
        let families = fonts.faces().flat_map(|face| face.families.iter().map(|(name, _)| name.clone()));
        if let Some(name) = families.filter(plain).min_by_key(String::len) {
            fonts.set_sans_serif_family(name);
        }
    }
    let tree = usvg::Tree::from_str(svg, &options)?;
    let size = tree.size();
    let side = |length: f32| (length * SCALE).ceil() as u32;
    let mut pixels =
        Pixmap::new(side(size.width()), side(size.height())).ok_or("a picture of no size cannot be drawn")?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    Ok(pixels.encode_png()?)
}

#[cfg(test)]
mod tests {
    use super::super::samples::Sample;
    use super::*;

    #[test]
    fn a_plot_has_a_line_for_each_start_and_peer() {
        let mut samples = Samples::default();
        let times = [0.4, 0.5, 3.0].map(|time| Sample { time, ..Sample::default() });
        samples.hydra.insert((hello("python"), Start::Restored), times.into());
        samples.peers.insert("functions-framework python", vec![190.0]);
        let folder = tempfile::tempdir().unwrap();
        let paths = save(&folder.path().join("plot"), &samples, &Machine::look()).unwrap();
        let svg = std::fs::read_to_string(&paths[0]).unwrap();
        for text in ["Hydra snapshot: restored", "functions-framework", "0.50", "190"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(std::fs::read(&paths[1]).unwrap().starts_with(b"\x89PNG"));
        assert!(save(&folder.path().join("none"), &Samples::default(), &Machine::look()).unwrap().is_empty());
    }
}
