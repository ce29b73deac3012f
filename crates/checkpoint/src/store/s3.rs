//! Makes the S3 client of `remote.rs` out of options and credentials, and refuses what cannot work. It sends nothing.

use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::remote::{BACKOFF_MAX, BACKOFF_MIN};
use super::{StoreOptions, store_url_error};
use crate::Result;

/// A request is signed once and retried as it is; S3 takes signatures of up to 15 minutes, the client advises below 5.
const RETRY_TIMEOUT_MAX: Duration = Duration::from_secs(240);
/// Retries of the client within that time; the time is the bound.
const RETRIES_MAX: usize = 1000;

/// The client for one bucket.
///
/// **Errors**: `StoreUrl`, with what to set.
pub(super) fn client(url: &str, bucket: &str, options: &StoreOptions) -> Result<AmazonS3> {
    let s3 = &options.s3;
    let environment = |name: &str| options.environment.get(name);
    let region = s3.region.as_deref().or_else(|| environment("AWS_REGION"));
    let region = region.or_else(|| environment("AWS_DEFAULT_REGION")).unwrap_or("us-east-1");
    let mut client = ClientOptions::new()
        .with_timeout(options.request_timeout)
        .with_connect_timeout(options.connect_timeout)
        .with_pool_max_idle_per_host(options.requests_in_flight_max);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_virtual_hosted_style_request(!s3.path_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(RetryConfig {
            backoff: BackoffConfig { init_backoff: BACKOFF_MIN, max_backoff: BACKOFF_MAX, base: 2.0 },
            max_retries: RETRIES_MAX,
            retry_timeout: options.call_deadline.min(RETRY_TIMEOUT_MAX),
        });
    if let Some(endpoint) = &s3.endpoint {
        let endpoint = endpoint.trim_end_matches('/');
        let host = endpoint_host(endpoint)?;
        let is_loopback = is_loopback(host);
        if endpoint.starts_with("http://") {
            if !s3.allow_http && !is_loopback {
                return Err(store_url_error(endpoint, "it is not encrypted: use https, or set s3.allow-http"));
            }
            client = client.with_allow_http(true);
        }
        if is_loopback {
            // The client takes a proxy from the environment for every host, this machine too. A proxy of its own turns
            // that off, and the exclusion turns the own one off.
            client = client.with_proxy_url(endpoint).with_proxy_excludes(host.trim_matches(['[', ']']));
        }
        let address = match s3.path_style {
            true => endpoint.to_owned(),
            // The client takes an endpoint for a bucket's own.
            false => endpoint.replacen("://", &format!("://{bucket}."), 1),
        };
        builder = builder.with_endpoint(address);
        if !has_credentials(options) {
            let reason = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment";
            return Err(store_url_error(url, reason));
        }
    }
    for (name, key) in CREDENTIAL_KEYS {
        if let Some(value) = environment(name) {
            builder = builder.with_config(*key, value);
        }
    }
    builder.with_client_options(client).build().map_err(|error| store_url_error(url, weir_core::error::report(&error)))
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
fn has_credentials(options: &StoreOptions) -> bool {
    let starts = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"];
    let full = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    starts.iter().chain([&full]).any(|name| options.environment.get(name).is_some())
}

fn endpoint_host(endpoint: &str) -> Result<&str> {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let Some(rest) = rest else {
        return Err(store_url_error(endpoint, "s3.endpoint begins with https:// or http://"));
    };
    if rest.is_empty() || rest.contains(['/', '@', '?', '#', ' ']) {
        return Err(store_url_error("s3.endpoint", "it is a scheme, a host and a port, and nothing else"));
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
