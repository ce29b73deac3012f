//! Turns reports into Arrow columns, and broken ones into dead letters. Called by the reader, once per batch.

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use weir_core::batch::event_time_type;
use weir_operator_api::BadRecord;

use super::places::REGIONS;
use super::truck::Status;

/// One report. **Units**: milliseconds since the start of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) received_ms: i64,
    pub(super) event_ms: i64,
    pub(super) planned_arrival_ms: i64,
    pub(super) lat: f64,
    pub(super) lon: f64,
    pub(super) truck: u32,
    pub(super) leg: u32,
    pub(super) remaining_m: u32,
    pub(super) speed_tenths: u16,
    /// Where the text of a broken report breaks off, in 256ths; 0 for a whole one.
    pub(super) cut: u8,
    pub(super) region: u8,
    pub(super) to: u8,
    pub(super) cruise_kmh: u8,
    pub(super) status: Status,
}

/// One column of the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Column {
    TruckId,
    ShipmentId,
    Region,
    Lat,
    Lon,
    SpeedKmh,
    Status,
    PlannedArrival,
    DestLat,
    DestLon,
    RemainingKm,
    RemainingM,
    CruiseKmh,
    EventTime,
    ReceivedAt,
}

impl Column {
    pub(super) const ALL: [Column; 15] = [
        Column::TruckId,
        Column::ShipmentId,
        Column::Region,
        Column::Lat,
        Column::Lon,
        Column::SpeedKmh,
        Column::Status,
        Column::PlannedArrival,
        Column::DestLat,
        Column::DestLon,
        Column::RemainingKm,
        Column::RemainingM,
        Column::CruiseKmh,
        Column::EventTime,
        Column::ReceivedAt,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Column::TruckId => "truck_id",
            Column::ShipmentId => "shipment_id",
            Column::Region => "region",
            Column::Lat => "lat",
            Column::Lon => "lon",
            Column::SpeedKmh => "speed_kmh",
            Column::Status => "status",
            Column::PlannedArrival => "planned_arrival",
            Column::DestLat => "dest_lat",
            Column::DestLon => "dest_lon",
            Column::RemainingKm => "remaining_km",
            Column::RemainingM => "remaining_m",
            Column::CruiseKmh => "cruise_kmh",
            Column::EventTime => "event_time",
            Column::ReceivedAt => "received_at",
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Column::TruckId | Column::ShipmentId | Column::Region | Column::Status => DataType::Utf8,
            Column::PlannedArrival | Column::EventTime | Column::ReceivedAt => event_time_type(),
            Column::RemainingM | Column::CruiseKmh => DataType::Int64,
            _ => DataType::Float64,
        }
    }

    /// The columns a reader is asked for, in that order; all when nothing is asked. Nothing at all (`count(*)`) becomes
    /// the event time alone, because a batch needs a column to have rows. Unknown names are given back.
    pub(super) fn project(names: Option<&[String]>) -> Result<Vec<Column>, String> {
        match names {
            None => Ok(Column::ALL.to_vec()),
            Some([]) => Ok(vec![Column::EventTime]),
            Some(names) => names
                .iter()
                .map(|name| Column::ALL.into_iter().find(|column| column.name() == name).ok_or_else(|| name.clone()))
                .collect(),
        }
    }
}

/// Schema of some columns.
pub(super) fn schema_of(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| Field::new(column.name(), column.data_type(), false);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// Spells the id of a truck.
pub(super) fn truck_id(truck: u32) -> String {
    format!("truck-{truck:06}")
}

/// Spells the id of a shipment: truck and leg.
pub(super) fn shipment_id(truck: u32, leg: u32) -> String {
    format!("shipment-{truck:06}-{leg:04}")
}

/// Builds wanted columns out of reports.
pub(super) struct Columns {
    columns: Vec<Column>,
    schema: SchemaRef,
    start_unix_ms: i64,
    /// `000` to `999`: ids are put together from these.
    thousand: Vec<String>,
}

impl Columns {
    pub(super) fn new(columns: Vec<Column>, start_unix_ms: i64) -> Self {
        let thousand = (0..1_000).map(|number| format!("{number:03}")).collect();
        Columns { schema: schema_of(&columns), columns, start_unix_ms, thousand }
    }

    /// The rows of whole reports.
    pub(super) fn rows(&self, reports: &[Report]) -> RecordBatch {
        let columns = self.columns.iter().map(|column| self.column(*column, reports)).collect();
        RecordBatch::try_new(self.schema.clone(), columns).expect("columns are built to the schema, all of one length")
    }

    fn column(&self, column: Column, reports: &[Report]) -> ArrayRef {
        let numbers = |value: fn(&Report) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(reports.iter().map(value)))
        };
        let integers = |value: fn(&Report) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(reports.iter().map(value)))
        };
        let times = |value: fn(&Report) -> i64| -> ArrayRef {
            let micros = reports.iter().map(|report| (self.start_unix_ms + value(report)) * 1_000);
            Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
        };
        match column {
            Column::TruckId => self.ids(reports, |report, out| self.write_truck(report, "truck-", out)),
            Column::ShipmentId => self.ids(reports, |report, out| {
                self.write_truck(report, "shipment-", out);
                self.write_leg(report.leg, out);
            }),
            Column::Region => self.ids(reports, |report, out| write(REGIONS[usize::from(report.region)].0, out)),
            Column::Status => self.ids(reports, |report, out| write(report.status.name(), out)),
            Column::Lat => numbers(|report| report.lat),
            Column::Lon => numbers(|report| report.lon),
            Column::SpeedKmh => numbers(|report| f64::from(report.speed_tenths) / 10.0),
            Column::DestLat => numbers(|report| report.destination().lat),
            Column::DestLon => numbers(|report| report.destination().lon),
            Column::RemainingKm => numbers(|report| f64::from(report.remaining_m) / 1_000.0),
            Column::RemainingM => integers(|report| i64::from(report.remaining_m)),
            Column::CruiseKmh => integers(|report| i64::from(report.cruise_kmh)),
            Column::PlannedArrival => times(|report| report.planned_arrival_ms),
            Column::EventTime => times(|report| report.event_ms),
            Column::ReceivedAt => times(|report| report.received_ms),
        }
    }

    fn ids(&self, reports: &[Report], write: impl Fn(&Report, &mut StringBuilder)) -> ArrayRef {
        let mut out = StringBuilder::with_capacity(reports.len(), reports.len() * 20);
        for report in reports {
            write(report, &mut out);
            out.append_value("");
        }
        Arc::new(out.finish())
    }

    fn write_truck(&self, report: &Report, prefix: &str, out: &mut StringBuilder) {
        write(prefix, out);
        write(&self.thousand[report.truck as usize / 1_000], out);
        write(&self.thousand[report.truck as usize % 1_000], out);
    }

    fn write_leg(&self, leg: u32, out: &mut StringBuilder) {
        if leg < 1_000 {
            write("-0", out);
            write(&self.thousand[leg as usize], out);
        } else {
            write(&format!("-{leg:04}"), out);
        }
    }

    /// The dead letter of a broken report: a line of JSON that breaks off.
    pub(super) fn bad_record(&self, report: &Report, seed: u64) -> BadRecord {
        let text = self.json(report);
        let kept = 1 + (text.len() - 2) * usize::from(report.cut) / 256;
        BadRecord {
            code: "bad-record-fleet",
            message: format!("the report is not JSON: it breaks off after {kept} bytes"),
            source: Some(format!("fleet with seed {seed}, {}", truck_id(report.truck))),
            position: None,
            original: Some(text[..kept].to_owned()),
        }
    }

    fn json(&self, report: &Report) -> String {
        format!(
            r#"{{"truck_id":"{}","shipment_id":"{}","event_time_ms":{},"lat":{},"lon":{},"speed_kmh":{:.1},"status":"{}"}}"#,
            truck_id(report.truck),
            shipment_id(report.truck, report.leg),
            self.start_unix_ms + report.event_ms,
            report.lat,
            report.lon,
            f64::from(report.speed_tenths) / 10.0,
            report.status.name(),
        )
    }
}

/// Adds to the value at hand; `append_value` ends it.
#[inline]
fn write(text: &str, out: &mut StringBuilder) {
    out.write_str(text).expect("writing to memory cannot fail");
}

impl Report {
    /// Whether the report arrives broken.
    pub(super) fn is_broken(&self) -> bool {
        self.cut > 0
    }

    fn destination(&self) -> super::places::City {
        REGIONS[usize::from(self.region)].1[usize::from(self.to)]
    }
}
