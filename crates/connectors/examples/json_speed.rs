//! Measures the JSON-lines decoder alone: `json_speed FILE [ROUNDS]` decodes a file of position reports from memory
//! and prints megabytes per second and nanoseconds per record. Run it in release mode.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use arrow_schema::{Field, Schema};
use weir_connectors::format::json::Decoder;
use weir_connectors::format::{Decode, Place};
use weir_core::Clock;
use weir_operator_api::SystemClock;

const COLUMNS: [(&str, &str); 9] = [
    ("vehicle_id", "STRING"),
    ("callsign", "STRING"),
    ("event_time_ms", "BIGINT"),
    ("arrival_time_ms", "BIGINT"),
    ("lat", "DOUBLE"),
    ("lon", "DOUBLE"),
    ("speed_kt", "DOUBLE"),
    ("heading_deg", "DOUBLE"),
    ("altitude_ft", "DOUBLE"),
];

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: json_speed FILE [ROUNDS]")?;
    let rounds: u32 = arguments.next().map_or(Ok(20), |rounds| rounds.parse()).context("read the number of rounds")?;
    let text = std::fs::read(&path).with_context(|| format!("read {path}"))?;
    let fields = COLUMNS.iter().map(|(name, type_name)| {
        let data_type = weir_core::data_type::parse(type_name).map_err(anyhow::Error::msg)?;
        Ok(Field::new(*name, data_type, true))
    });
    let schema = Arc::new(Schema::new(fields.collect::<anyhow::Result<Vec<_>>>()?));
    let clock = SystemClock::default();
    let mut decoder = Decoder::new(schema, 1 << 20)?;
    for _ in 0..rounds {
        let started = clock.monotonic();
        let (mut place, mut bad, mut rows) = (Place::default(), Vec::new(), 0);
        while place.at < text.len() {
            decoder.decode(&text, &mut place, 4096, &mut bad)?;
            rows += decoder.take()?.num_rows();
        }
        let seconds = (clock.monotonic() - started).as_secs_f64();
        writeln!(
            std::io::stdout(),
            "{:.0} MB/s, {:.1} ns/record, {rows} records, {} bad",
            text.len() as f64 / 1e6 / seconds,
            seconds * 1e9 / rows as f64,
            bad.len()
        )?;
    }
    Ok(())
}
