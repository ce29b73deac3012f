//! Makes the client of a bucket out of options and credentials, and refuses what cannot work. It sends nothing.

use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use crate::{Environment, S3Error, S3Options};

/// First wait between two tries.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A request is signed once and retried as it is; S3 takes signatures of up to 15 minutes, the client advises below 5.
const RETRY_TIMEOUT_MAX: Duration = Duration::from_secs(240);
/// Retries of the client within that time; the time is the bound.
const RETRIES_MAX: usize = 1000;

/// Bounds of requests.
#[derive(Clone, PartialEq, Debug)]
pub struct Limits {
    /// Longest time of a call with all its repeats.
    pub call_deadline: Duration,
    /// Longest time of one HTTP request with its body.
    pub request_timeout: Duration,
    /// Longest time until a connection stands.
    pub connect_timeout: Duration,
    /// Connections that are kept for later requests.
    pub requests_in_flight_max: usize,
}

/// The client for one bucket; `url` is what messages call it.
///
/// **Errors**: what cannot be used, with what to set.
pub fn client(
    url: &str,
    bucket: &str,
    (options, environment): (&S3Options, &Environment),
    limits: &Limits,
) -> Result<AmazonS3, S3Error> {
    let reached = reach(bucket, options, environment)?;
    if options.endpoint.is_some() && !has_credentials(environment) {
        let reason = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment";
        return Err(S3Error::new(url, reason));
    }
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&reached.region)
        .with_virtual_hosted_style_request(!options.path_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(RetryConfig {
            backoff: BackoffConfig { init_backoff: BACKOFF_MIN, max_backoff: BACKOFF_MAX, base: 2.0 },
            max_retries: RETRIES_MAX,
            retry_timeout: limits.call_deadline.min(RETRY_TIMEOUT_MAX),
        });
    if let Some(address) = &reached.address {
        builder = builder.with_endpoint(address);
    }
    for (name, key) in CREDENTIAL_KEYS {
        if let Some(value) = environment.get(name) {
            builder = builder.with_config(*key, value);
        }
    }
    let built = builder.with_client_options(reached.transport(limits)).build();
    built.map_err(|error| S3Error::new(url, weir_core::error::report(&error)))
}

/// Where a bucket is reached, and how.
pub(crate) struct Reached {
    pub(crate) region: String,
    /// As the client wants it: with the bucket before the host, unless it goes into the path. Absent for Amazon.
    address: Option<String>,
    is_plain: bool,
    /// Endpoint and host, when they are on this machine.
    loopback: Option<(String, String)>,
    /// The bucket's own URL.
    pub(crate) bucket_url: String,
}

/// Reads the options of a bucket.
///
/// **Errors**: an endpoint that cannot be used.
pub(crate) fn reach(bucket: &str, options: &S3Options, environment: &Environment) -> Result<Reached, S3Error> {
    let region = options.region.as_deref().or_else(|| environment.get("AWS_REGION"));
    let region = region.or_else(|| environment.get("AWS_DEFAULT_REGION")).unwrap_or("us-east-1").to_owned();
    let Some(endpoint) = &options.endpoint else {
        let bucket_url = match options.path_style {
            true => format!("https://s3.{region}.amazonaws.com/{bucket}"),
            false => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        };
        return Ok(Reached { region, address: None, is_plain: false, loopback: None, bucket_url });
    };
    let endpoint = endpoint.trim_end_matches('/');
    let host = endpoint_host(endpoint)?;
    let is_plain = endpoint.starts_with("http://");
    if is_plain && !options.allow_http && !is_loopback(host) {
        return Err(S3Error::new(endpoint, "it is not encrypted: use https, or set s3.allow-http"));
    }
    // The client takes an endpoint for a bucket's own, unless the bucket goes into the path.
    let of_bucket = endpoint.replacen("://", &format!("://{bucket}."), 1);
    let (address, bucket_url) = match options.path_style {
        true => (endpoint.to_owned(), format!("{endpoint}/{bucket}")),
        false => (of_bucket.clone(), of_bucket),
    };
    let loopback = is_loopback(host).then(|| (endpoint.to_owned(), host.trim_matches(['[', ']']).to_owned()));
    Ok(Reached { region, address: Some(address), is_plain, loopback, bucket_url })
}

impl Reached {
    /// Options of the connections.
    pub(crate) fn transport(&self, limits: &Limits) -> ClientOptions {
        let mut transport = ClientOptions::new()
            .with_timeout(limits.request_timeout)
            .with_connect_timeout(limits.connect_timeout)
            .with_pool_max_idle_per_host(limits.requests_in_flight_max);
        if self.is_plain {
            transport = transport.with_allow_http(true);
        }
        if let Some((endpoint, host)) = &self.loopback {
            // The client takes a proxy from the environment for every host, this machine too. A proxy of its own turns
            // that off, and the exclusion turns the own one off.
            transport = transport.with_proxy_url(endpoint).with_proxy_excludes(host);
        }
        transport
    }
}

/// Variables of the environment and the client's keys for them.
const CREDENTIAL_KEYS: &[(&str, AmazonS3ConfigKey)] = &[
    ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
    ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
];

/// Without any, the client asks the metadata of an Amazon machine, which nobody but Amazon has.
fn has_credentials(environment: &Environment) -> bool {
    let starts = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"];
    let full = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    starts.iter().chain([&full]).any(|name| environment.get(name).is_some())
}

fn endpoint_host(endpoint: &str) -> Result<&str, S3Error> {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let Some(rest) = rest else {
        return Err(S3Error::new(endpoint, "s3.endpoint begins with https:// or http://"));
    };
    if rest.is_empty() || rest.contains(['/', '@', '?', '#', ' ']) {
        return Err(S3Error::new("s3.endpoint", "it is a scheme, a host and a port, and nothing else"));
    }
    Ok(match rest.strip_prefix('[') {
        Some(address) => &rest[..address.find(']').map_or(rest.len(), |end| end + 2)],
        None => rest.split(':').next().unwrap_or(rest),
    })
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']);
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
