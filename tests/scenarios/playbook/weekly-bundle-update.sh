#!/bin/bash
# weekly-bundle-update.sh

set -euo pipefail

echo "=== Weekly Bundle Update ==="

# Backup current bundle
cp -r .demon/contracts/ .demon/contracts.backup.$(date +%Y%m%d)

# Update to latest
demonctl contracts fetch-bundle --tag contracts-latest

# Verify new bundle
shasum -a 256 -c .demon/contracts/bundle.sha256

# Restart runtime to load new bundle
systemctl restart demon-runtime

# Wait for startup
sleep 10

# Verify bundle loaded
STATUS=$(curl -s localhost:3000/api/contracts/status | jq -r '.contractBundle.status')
if [ "$STATUS" = "loaded" ]; then
    echo "✓ Bundle update successful"
    rm -rf .demon/contracts.backup.*
else
    echo "✗ Bundle update failed - check logs"
    exit 1
fi

echo "=== Update complete ==="
