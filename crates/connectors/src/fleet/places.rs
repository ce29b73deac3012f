//! Regions, cities and the great circles between them (pure). Trucks look up their routes here.

/// Cities of each region.
pub(super) const CITIES_PER_REGION: usize = 8;

const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// A city. **Units**: degrees, WGS 84.
#[derive(Clone, Copy, Debug)]
pub(super) struct City {
    pub(super) lat: f64,
    pub(super) lon: f64,
}

const fn city(lat: f64, lon: f64) -> City {
    City { lat, lon }
}

/// The built-in regions with their cities, named in the comments.
#[rustfmt::skip]
pub(super) const REGIONS: [(&str, [City; CITIES_PER_REGION]); 8] = [
    // Lisbon, Porto, Madrid, Seville, Valencia, Barcelona, Zaragoza, Bilbao
    ("iberia", [
        city(38.7223, -9.1393), city(41.1579, -8.6291), city(40.4168, -3.7038), city(37.3891, -5.9845),
        city(39.4699, -0.3763), city(41.3874, 2.1686), city(41.6488, -0.8891), city(43.2630, -2.9350),
    ]),
    // Paris, Lyon, Marseille, Toulouse, Bordeaux, Nantes, Lille, Strasbourg
    ("france", [
        city(48.8566, 2.3522), city(45.7640, 4.8357), city(43.2965, 5.3698), city(43.6047, 1.4442),
        city(44.8378, -0.5792), city(47.2184, -1.5536), city(50.6292, 3.0573), city(48.5734, 7.7521),
    ]),
    // London, Birmingham, Manchester, Leeds, Glasgow, Bristol, Newcastle, Norwich
    ("britain", [
        city(51.5072, -0.1276), city(52.4862, -1.8904), city(53.4808, -2.2426), city(53.8008, -1.5491),
        city(55.8642, -4.2518), city(51.4545, -2.5879), city(54.9783, -1.6178), city(52.6309, 1.2974),
    ]),
    // Berlin, Hamburg, Munich, Cologne, Frankfurt, Stuttgart, Leipzig, Hanover
    ("germany", [
        city(52.5200, 13.4050), city(53.5511, 9.9937), city(48.1351, 11.5820), city(50.9375, 6.9603),
        city(50.1109, 8.6821), city(48.7758, 9.1829), city(51.3397, 12.3731), city(52.3759, 9.7320),
    ]),
    // Milan, Rome, Naples, Turin, Bologna, Venice, Bari, Genoa
    ("italy", [
        city(45.4642, 9.1900), city(41.9028, 12.4964), city(40.8518, 14.2681), city(45.0703, 7.6869),
        city(44.4949, 11.3426), city(45.4408, 12.3155), city(41.1171, 16.8719), city(44.4056, 8.9463),
    ]),
    // Copenhagen, Malmo, Gothenburg, Stockholm, Oslo, Bergen, Linkoping, Aarhus
    ("nordics", [
        city(55.6761, 12.5683), city(55.6050, 13.0038), city(57.7089, 11.9746), city(59.3293, 18.0686),
        city(59.9139, 10.7522), city(60.3913, 5.3221), city(58.4108, 15.6214), city(56.1629, 10.2039),
    ]),
    // Warsaw, Krakow, Gdansk, Wroclaw, Prague, Brno, Poznan, Katowice
    ("visegrad", [
        city(52.2297, 21.0122), city(50.0647, 19.9450), city(54.3520, 18.6466), city(51.1079, 17.0385),
        city(50.0755, 14.4378), city(49.1951, 16.6068), city(52.4064, 16.9252), city(50.2649, 19.0238),
    ]),
    // Vienna, Budapest, Zagreb, Belgrade, Bucharest, Sofia, Cluj-Napoca, Thessaloniki
    ("danube", [
        city(48.2082, 16.3738), city(47.4979, 19.0402), city(45.8150, 15.9819), city(44.7866, 20.4489),
        city(44.4268, 26.1025), city(42.6977, 23.3219), city(46.7712, 23.6236), city(40.6401, 22.9444),
    ]),
];

/// The way from one city to another: a great circle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// **Units**: whole metres.
    pub(super) length_m: i64,
    start: [f64; 3],
    /// The direction of travel at the start, as a unit vector.
    heading: [f64; 3],
}

impl Route {
    fn between(from: City, to: City) -> Route {
        let (a, b) = (unit_vector(from), unit_vector(to));
        let cosine = a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
        // The part of `b` that is perpendicular to `a` points the way; cities are never the same or opposite.
        let across = [b[0] - cosine * a[0], b[1] - cosine * a[1], b[2] - cosine * a[2]];
        let sine = (across[0] * across[0] + across[1] * across[1] + across[2] * across[2]).sqrt();
        let length_m = (sine.atan2(cosine) * EARTH_RADIUS_M).round() as i64;
        Route { length_m, start: a, heading: across.map(|part| part / sine) }
    }

    /// Latitude and longitude after `travelled_m`, rounded to 6 decimals.
    pub(super) fn position(&self, travelled_m: i64) -> (f64, f64) {
        let (sine, cosine) = (travelled_m as f64 / EARTH_RADIUS_M).sin_cos();
        let [x, y, z] = [0, 1, 2].map(|i| self.start[i] * cosine + self.heading[i] * sine);
        (round6(z.asin().to_degrees()), round6(y.atan2(x).to_degrees()))
    }
}

fn unit_vector(city: City) -> [f64; 3] {
    let (lat, lon) = (city.lat.to_radians(), city.lon.to_radians());
    [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()]
}

fn round6(degrees: f64) -> f64 {
    (degrees * 1e6).round() / 1e6
}

/// All routes within the regions.
pub(super) struct Routes(Vec<Route>);

impl Routes {
    pub(super) fn new() -> Self {
        let within = |cities: &[City; CITIES_PER_REGION]| {
            let cities = *cities;
            cities.into_iter().flat_map(move |from| cities.into_iter().map(move |to| (from, to))).collect::<Vec<_>>()
        };
        let pairs = REGIONS.iter().flat_map(|(_, cities)| within(cities));
        Routes(pairs.map(|(from, to)| Route::between(from, to)).collect())
    }

    #[inline]
    pub(super) fn get(&self, region: u8, from: u8, to: u8) -> &Route {
        &self.0[(usize::from(region) * CITIES_PER_REGION + usize::from(from)) * CITIES_PER_REGION + usize::from(to)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_leads_from_city_to_city() {
        let routes = Routes::new();
        for (region, (name, cities)) in REGIONS.iter().enumerate() {
            for from in 0..CITIES_PER_REGION {
                for to in (0..CITIES_PER_REGION).filter(|to| *to != from) {
                    let route = routes.get(region as u8, from as u8, to as u8);
                    assert!((20_000..1_500_000).contains(&route.length_m), "{name} {from} {to}: {}", route.length_m);
                    for (travelled, city) in [(0, cities[from]), (route.length_m, cities[to])] {
                        let (lat, lon) = route.position(travelled);
                        assert!((lat - city.lat).abs() < 2e-5 && (lon - city.lon).abs() < 2e-5, "{name} {from} {to}");
                    }
                }
            }
        }
        // Berlin to Hamburg is 255 km.
        assert_eq!(routes.get(3, 0, 1).length_m / 1_000, 255);
    }
}
