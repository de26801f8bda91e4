def dashboards() -> dict[str, str]:
    return {}
