"""Writes dashboards in Grafana's format, with the builders of its SDK."""

import json
from collections.abc import Iterator
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    bargauge,
    heatmap,
    piechart,
    prometheus,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.boards.spec import STATUS_COLORS, Board, Panel, Query

SOURCE: Final = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS: Final = 24
_VARIABLES: Final = {
    "job": ("Master", "label_values(mesh_build_info, job)"),
    "group": ("Group", 'label_values(mesh_group_active{job=~"$job"}, group)'),
    "agent": ("Agent", 'label_values(mesh_agent_status{job=~"$job",group=~"$group"}, agent)'),
}
_SHAPES: Final[dict[str, Any]] = {
    "stat": stats.Panel,
    "lines": timeseries.Panel,
    "bars": timeseries.Panel,
    "table": table.Panel,
    "timeline": statetimeline.Panel,
    "heatmap": heatmap.Panel,
    "pie": piechart.Panel,
    "gauges": bargauge.Panel,
}
# Fields of interval variables, which the SDK writes into every variable.
_OF_INTERVALS: Final = ("auto", "auto_count", "auto_min")
# Panels with one value per query.
_INSTANT: Final = frozenset({"stat", "table", "pie", "gauges"})


def written(board: Board) -> str:
    """Write a dashboard's JSON, deterministically."""
    builder = (
        build.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["mesh"])
        .timezone("browser")
        .editable()
        .time(board.since, "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    )
    _add_variables(builder, board)
    _add_annotations(builder, board)
    _add_links(builder)
    number, top = 1, 0
    for row in board.rows:
        builder.with_row(
            build.Row(row.title).id(number).grid_pos(dashboard.GridPos(h=1, w=COLUMNS, x=0, y=top))
        )
        number, top = number + 1, top + 1
        left = line_height = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top, line_height = 0, top + line_height, 0
            place = dashboard.GridPos(h=panel.height, w=panel.width, x=left, y=top)
            builder.with_panel(_panel(panel).id(number).grid_pos(place))
            number, left = number + 1, left + panel.width
            line_height = max(line_height, panel.height)
        top += line_height
    plain = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    for variable in plain["templating"]["list"]:
        for name in _OF_INTERVALS:
            variable.pop(name, None)
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"


def _add_variables(builder: build.Dashboard, board: Board) -> None:
    builder.with_variable(
        build.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes the master")
        .type("prometheus")
    )
    for name in board.variables:
        label, definition = _VARIABLES[name]
        builder.with_variable(
            build.QueryVariable(name)
            .label(label)
            .description(f"Which {name} to show; all unless chosen")
            .datasource(SOURCE)
            .query({"query": definition, "refId": f"variable-{name}"})
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
        )
    builder.with_variable(
        build.TextBoxVariable("console")
        .label("Console")
        .description("Address of the master's console, for the links into it")
        .default_value("http://127.0.0.1:8080")
    )


def _add_annotations(builder: build.Dashboard, board: Board) -> None:
    builder.annotation(
        build.AnnotationQuery()
        .name("Master started")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("purple")
        .expr('process_start_time_seconds{job=~"$job"} * 1000')
        .use_value_for_time(True)
        .title_format("Master started")
        .text_format("{{ instance }}")
    )
    group = ',group=~"$group"' if "group" in board.variables else ""
    builder.annotation(
        build.AnnotationQuery()
        .name("Status changes")
        .datasource(SOURCE)
        .enable("group" in board.variables)
        .icon_color("orange")
        .expr(
            "sum by (group, from, to) ("
            f'increase(mesh_agent_status_changes_total{{job=~"$job"{group}}}[$__rate_interval])'
            ") > 0"
        )
        .step("30s")
        .title_format("{{ group }}")
        .text_format("{{ from }} → {{ to }}")
    )


def _add_links(builder: build.Dashboard) -> None:
    builder.link(
        build.DashboardLink("Mesh dashboards")
        .type(dashboard.DashboardLinkType.DASHBOARDS)
        .tags(["mesh"])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
        .icon("external link")
    )
    builder.link(
        build.DashboardLink("Console")
        .type(dashboard.DashboardLinkType.LINK)
        .url("${console}")
        .icon("external link")
        .tooltip("The master's own page: agents, groups and open commands")
        .target_blank(True)
    )


def _panel(panel: Panel) -> Any:  # noqa: ANN401  the SDK's panels share methods, not a base
    shape = (
        _SHAPES[panel.kind]()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(panel.unit)
        .thresholds(_thresholds(panel))
    )
    if panel.decimals is not None:
        shape = shape.decimals(panel.decimals)
    if panel.quiet:
        shape = shape.no_value("none")
    if panel.link:
        link = build.DashboardLink("Show").type(dashboard.DashboardLinkType.LINK).url(panel.link)
        shape = shape.data_links([link])
    for index, each in enumerate(panel.queries):
        shape = shape.with_target(_target(panel, each, chr(ord("A") + index)))
    return _styled(shape, panel)


def _thresholds(panel: Panel) -> build.ThresholdsConfig:
    steps = [dashboard.Threshold(value=value, color=color) for value, color in panel.steps]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _target(panel: Panel, each: Query, ref: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().datasource(SOURCE).expr(each.expr).ref_id(ref)
    target = target.instant() if panel.kind in _INSTANT else target.range()
    if panel.kind == "table":
        return target.format(PromQueryFormat.TABLE)
    if panel.kind == "heatmap":
        target = target.format(PromQueryFormat.HEATMAP)
    return target.legend_format(each.legend or panel.title)


def _styled(shape: Any, panel: Panel) -> Any:  # noqa: ANN401  as above
    match panel.kind:
        case "stat":
            return shape.color_mode(common.BigValueColorMode.BACKGROUND_SOLID).graph_mode(
                common.BigValueGraphMode.NONE
            )
        case "lines" | "bars":
            return _curves(shape, panel)
        case "timeline":
            return shape.mappings([_statuses()]).fill_opacity(80).legend(_legend())
        case "pie":
            return shape.legend(
                piechart.PieChartLegendOptions()
                .show_legend(True)
                .display_mode(common.LegendDisplayMode.LIST)
                .placement(common.LegendPlacement.RIGHT)
            )
        case "table":
            return _columns(shape, panel)
        case "heatmap":
            return shape.y_axis(heatmap.YAxisConfig().unit(panel.unit))
    return shape


def _curves(shape: Any, panel: Panel) -> Any:  # noqa: ANN401  as above
    shape = shape.legend(_legend()).fill_opacity(10)
    if panel.kind == "bars":
        shape = shape.draw_style(common.GraphDrawStyle.BARS).fill_opacity(70)
    if panel.stacked:
        shape = shape.stacking(
            common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A")
        )
    return shape


def _legend() -> common_builders.VizLegendOptions:
    return (
        common_builders.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .calcs([])
    )


def _statuses() -> dashboard.ValueMap:
    return dashboard.ValueMap(
        {
            str(code): dashboard.ValueMappingResult(text=text, color=color, index=code)
            for text, color, code in STATUS_COLORS.values()
        }
    )


def _columns(shape: Any, panel: Panel) -> Any:  # noqa: ANN401  as above
    """Join queries by a label into a table; one column each, named as the query's legend."""
    if len(panel.queries) > 1:
        shape = shape.with_transformation(
            dashboard.DataTransformerConfig(
                id_val="joinByField", options={"byField": panel.join, "mode": "outer"}
            )
        )
    shape = shape.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys(_times(panel), True),
                "renameByName": {
                    name: each.legend
                    for name, each in zip(_values(panel), panel.queries, strict=True)
                },
            },
        )
    )
    for column, unit in panel.units:
        shape = shape.override_by_name(
            column, [dashboard.DynamicConfigValue(id_val="unit", value=unit)]
        )
    if panel.sort:
        order = common_builders.TableSortByFieldState().display_name(panel.sort)
        shape = shape.sort_by([order.desc(panel.descending)])
    return shape.filterable(True)


def _times(panel: Panel) -> Iterator[str]:
    yield "Time"
    for index in range(len(panel.queries)):
        yield f"Time {index + 1}"


def _values(panel: Panel) -> list[str]:
    if len(panel.queries) == 1:
        return ["Value"]
    return [f"Value #{chr(ord('A') + index)}" for index in range(len(panel.queries))]
