from rendered import needs_helm


def pytest_collection_modifyitems(items):
    for item in items:
        if "/charts/" in str(item.path):
            item.add_marker(needs_helm)
