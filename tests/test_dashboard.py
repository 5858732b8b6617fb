"""The dashboard's frame in a browser."""

pytest_plugins = ("dashboard_examples",)


def test_the_pages_stand_in_the_navigation(dashboard, page):
    page.goto(dashboard.url)
    page.get_by_role("link", name="Leaderboard").wait_for()
