//! The database: SQLite or PostgreSQL, as its URL says.

use std::{borrow::Cow, error::Error, time::Duration};

use futures_util::TryFutureExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{
    AnyConnection, AnyPool, Column, Connection, Executor, Row,
    any::{AnyPoolOptions, AnyRow},
    migrate::{Migration, MigrationType, Migrator},
};

/// The migrations in order. The primary key that the database numbers is written `{key}`, because its type is the only
/// difference between the databases.
const MIGRATIONS: &[(&str, &str)] = &[("tables", include_str!("../migrations/0001_tables.sql"))];

/// Opens the database of a URL, and creates or updates its tables.
pub(crate) async fn open(url: &str) -> Result<AnyPool, Box<dyn Error>> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    let (key, feature, is_enabled) = match scheme {
        "sqlite" => ("INTEGER PRIMARY KEY AUTOINCREMENT", "sqlite", cfg!(feature = "sqlite")),
        "postgres" | "postgresql" => {
            ("BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "postgres", cfg!(feature = "postgres"))
        }
        _ => return Err("--database: the URL must begin with sqlite: or postgres:".into()),
    };
    if !is_enabled {
        let error =
            format!("--database {scheme}:… requires the feature `{feature}`: build with `--features {feature}`");
        return Err(error.into());
    }
    sqlx::any::install_default_drivers();
    let pool = if feature == "sqlite" { open_sqlite(url).await } else { open_postgres(url).await };
    // There may be a password before the host, and in the query. In a URL that is wrong, both may have any character.
    let location = match url.split_once('?') {
        Some((_, query)) if query.contains('@') => scheme,
        Some((location, _)) => location,
        None => url,
    };
    let location = location.rsplit_once('@').map_or(location, |(_, location)| location);
    let pool = pool.map_err(|error| format!("cannot open the database {location}: {error}"))?;
    let migrations = MIGRATIONS.iter().zip(1..).map(|(&(name, sql), version)| {
        let sql = sql.replace("{key}", key);
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, Cow::Owned(sql), false)
    });
    let migrator = Migrator { migrations: Cow::Owned(migrations.collect()), ..Migrator::DEFAULT };
    migrator.run(&pool).await.map_err(|error| format!("cannot update the database {location}: {error}"))?;
    Ok(pool)
}

/// Opens a file, or a database in memory. SQLite has one writer at a time, so one connection with a fair queue is
/// faster than several that wait for each other's locks. A database in memory lives as long as its connection.
async fn open_sqlite(url: &str) -> sqlx::Result<AnyPool> {
    let url = if url.contains('?') || url.ends_with(":memory:") { url.into() } else { format!("{url}?mode=rwc") };
    AnyPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(|connection, _| Box::pin(connection.execute(SET_UP).map_ok(drop)))
        .connect(&url)
        .await
}

/// The write-ahead log syncs the disk once per transaction, and lets other programs read meanwhile.
const SET_UP: &str = "PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000";

async fn open_postgres(url: &str) -> sqlx::Result<AnyPool> {
    // A pool would repeat an attempt that fails, and return no cause.
    AnyConnection::connect(url).await?.close().await?;
    // Stations and health checks give up after a while, so a database that is gone must not hold them.
    AnyPoolOptions::new().max_connections(10).acquire_timeout(Duration::from_secs(5)).connect(url).await
}

/// Reads rows of text and integers as values whose fields have the names of the columns.
pub(crate) fn read<T: DeserializeOwned>(rows: &[AnyRow]) -> sqlx::Result<Vec<T>> {
    let value = |row: &AnyRow, column: usize| {
        let number = row.try_get::<Option<i64>, _>(column).map(Value::from);
        number.or_else(|_| row.try_get::<Option<String>, _>(column).map(Value::from))
    };
    let object = |row: &AnyRow| {
        let columns = row.columns().iter().enumerate();
        let fields = columns.map(|(number, column)| Ok((column.name().to_owned(), value(row, number)?)));
        let object = Value::Object(fields.collect::<sqlx::Result<_>>()?);
        serde_json::from_value(object).map_err(|error| sqlx::Error::Decode(error.into()))
    };
    rows.iter().map(object).collect()
}
